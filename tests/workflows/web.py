"""A server on this machine that answers requests of tools and searches as it is told."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import orjson


class Arrived(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Web:
    """The server's address, and what arrived."""

    url: str
    arrived: list[Arrived] = field(default_factory=list)


Answer = tuple[int, bytes] | tuple[int, bytes, dict[str, str]]


@contextmanager
def serve_web(respond: Callable[[Arrived], Answer]) -> Generator[Web]:
    """`with serve_web(lambda request: (200, b"…")) as web: … web.url`."""

    class Responding(BaseHTTPRequestHandler):
        def respond(self) -> None:
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Arrived(self.command, self.path, dict(self.headers), orjson.loads(raw) if raw else None)
            web.arrived.append(request)
            status, body, *headers = respond(request)
            self.send_response(status)
            for name, value in (*({"Content-Length": str(len(body))} | dict(*headers)).items(),):
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_DELETE = respond  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Responding)
    web = Web(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield web
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
