"""Passes bytes on to a server of this machine, and none any more once it is told to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress


class StallingProxy:
    """Listens at `address`; passes on while `flows` is set."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self.flows = threading.Event()
        self.flows.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # it is closed
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source:
            while content := source.recv(1 << 16):
                self.flows.wait()
                sink.sendall(content)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.flows.set()
        self._listener.close()


@contextmanager
def stalling(address: str) -> Generator[StallingProxy]:
    """One in front of the server at `http://host:port`."""
    host, _, port = address.removeprefix("http://").rpartition(":")
    proxy = StallingProxy((host, int(port)))
    try:
        yield proxy
    finally:
        proxy.close()
