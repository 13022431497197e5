"""I turn Ctrl+C into a request to stop: the first lets calls in flight finish, the second ends the run at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType

ASKED = "stopped on request"


class Stop:
    """Whether a run is to end early. Any thread may ask."""

    def __init__(self) -> None:
        self._asked = threading.Event()
        self._at_once = threading.Event()

    def ask(self) -> None:
        """The first time: send no new call, finish those in flight. The second time: end at once."""
        (self._at_once if self._asked.is_set() else self._asked).set()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    @property
    def is_at_once(self) -> bool:
        return self._at_once.is_set()

    @contextmanager
    def on_signals(self) -> Generator[None]:
        """SIGINT and SIGTERM ask, where this is the main thread; elsewhere signals are left alone."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.ask()

        kinds = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(kind, note) for kind in kinds]
        try:
            yield
        finally:
            for kind, handler in zip(kinds, before, strict=True):
                signal.signal(kind, handler)
