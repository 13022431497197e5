"""Hears Ctrl+C, SIGTERM and a closed terminal from the command's first import to its last exit.

Knows nothing of what the command does. While a run goes on, that hears them itself (`execution.stopping`). Otherwise
the first one raises KeyboardInterrupt where the main thread is, and the second ends the process. A thread sees to it
that both are kept to: Python tells the main thread of a signal only once it comes back from what it is in, such as a
library that reads a large file, and a user's code may catch what is raised there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

from raypipe.execution.stopping import is_supervised, listen, stop_signals

STOPPED = 4
_FIRST_S, _SECOND_S = 4.0, 1.6
_LOOK_EVERY_S = 0.1
_TOLD = "error: stopped; what was completed is kept, run the same command again to go on"


class Interrupts:
    """Hears signals from when it is made, in the main thread."""

    def __init__(self) -> None:
        with suppress(OSError):  # there may be no standard error
            self._errors = os.dup(2)
        self._heard: list[float] = []
        self._code = STOPPED
        self._kinds = stop_signals()
        reading, self._writing = os.pipe()
        os.set_blocking(self._writing, False)
        listen(self.say)
        signal.set_wakeup_fd(self._writing, warn_on_full_buffer=False)
        for kind in self._kinds:
            signal.signal(kind, self._interrupt)
        threading.Thread(target=self._listen, args=(reading,), name="signals", daemon=True).start()
        threading.Thread(target=self._watch, name="interrupts", daemon=True).start()

    _errors = -1

    @property
    def is_heard(self) -> bool:
        return bool(self._heard)

    def say(self, words: str) -> None:
        """One line to what standard error was at the beginning: Ray starts in silence."""
        with suppress(OSError):
            os.write(self._errors, f"{words}\n".encode(errors="replace"))

    def leave(self, code: int) -> None:
        """The command is through: from now on a signal ends the process with this code."""
        self._code = code
        for kind in self._kinds:
            signal.signal(kind, lambda *_: os._exit(code))

    def end(self, code: int) -> None:
        """End the process now: neither threads nor what libraries do at exit is waited for."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(code)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        # Not Python's own handler, which does the same: asyncio puts another in the place of that one.
        raise KeyboardInterrupt

    def _listen(self, reading: int) -> None:
        while numbers := os.read(reading, 64):
            self._heard += [time.monotonic() for number in numbers if number in self._kinds]

    def _watch(self) -> None:
        """End the process where the main thread does not."""
        free_since = 0.0
        while True:
            time.sleep(_LOOK_EVERY_S)
            now = time.monotonic()
            if is_supervised():
                free_since = now
            is_late = bool(self._heard) and now > max(self._heard[0], free_since) + _FIRST_S
            if is_late or (len(self._heard) > 1 and now > self._heard[1] + _SECOND_S):
                if self._code == STOPPED:
                    self.say(_TOLD)
                self.end(self._code)
