"""I am an S3 store on this machine, with one bucket.

I run in a thread of the test's process; whatever is started with this environment finds me too.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from moto.server import ThreadedMotoServer
from pyarrow import fs

BUCKET = "bucket"


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """Where it listens."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    store = fs.S3FileSystem(
        "key", "secret", endpoint_override=address, region="us-east-1", allow_bucket_creation=True
    )
    store.create_dir(BUCKET)
    yield address
    server.stop()


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address of a folder of its own, and an environment in which it is found."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setenv("TMPDIR", str(folder))
    return f"s3://{BUCKET}/{folder.name}"
