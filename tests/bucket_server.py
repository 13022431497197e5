"""An S3 store on this machine, with one bucket.

Runs in a thread of whoever starts it; a process that is started with the environment it needs finds it too. Like S3, it
takes or refuses a conditional write as a whole: moto compares and writes in two steps, so only one request is let in at
a time where one is conditional.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, MotoRequestHandler, create_backend_app
from pyarrow import fs
from werkzeug.serving import make_server

BUCKET = "bucket"
_CONDITIONS = ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH")

App = Callable[[dict[str, Any], Any], Iterable[bytes]]


@contextmanager
def serve_bucket(conditions: str = "obeyed", admit: Callable[[str, str], bool] | None = None) -> Generator[str]:
    """The address that it listens at. In other stores conditional writes are `ignored` or `refused`.

    `admit` is asked before each request, with its method and path; what it refuses is answered 503 and changes nothing.
    """
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app: App = DomainDispatcherApplication(create_backend_app)
    guard = threading.Lock()

    def answer(request: dict[str, Any], start: Any) -> Iterable[bytes]:
        if admit is not None and not admit(request["REQUEST_METHOD"], request["PATH_INFO"]):
            start("503 Service Unavailable", [("Content-Type", "application/xml")])
            return [b'<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>later</Message></Error>']
        if request["REQUEST_METHOD"] != "PUT":
            return app(request, start)
        if conditions == "ignored":
            request = {name: value for name, value in request.items() if name not in _CONDITIONS}
        if conditions == "refused" and any(name in request for name in _CONDITIONS):
            start("501 Not Implemented", [("Content-Type", "application/xml")])
            return [b'<?xml version="1.0"?><Error><Code>NotImplemented</Code></Error>']
        with guard:
            return list(app(request, start))

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=MotoRequestHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        options = {"endpoint_override": address, "region": "us-east-1", "allow_bucket_creation": True}
        fs.S3FileSystem(access_key="key", secret_key="secret", **options).create_dir(BUCKET)
        yield address
    finally:
        server.shutdown()
        thread.join()
