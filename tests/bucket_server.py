"""I am an S3 store on this machine, with one bucket.

I run in a thread of whoever starts me; a process that is started with the environment I need finds me too.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager

from moto.server import ThreadedMotoServer
from pyarrow import fs

BUCKET = "bucket"


@contextmanager
def serve_bucket() -> Generator[str]:
    """The address that it listens at."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        address = f"http://{host}:{port}"
        options = {"endpoint_override": address, "region": "us-east-1", "allow_bucket_creation": True}
        fs.S3FileSystem(access_key="key", secret_key="secret", **options).create_dir(BUCKET)
        yield address
    finally:
        server.stop()
