"""Lets long work end between two parts of it, and short work that must not be cut run to its end.

Knows nothing of why work is to end: whoever starts the work sets a check, and the work, however deep below, calls it.
Where no check is set, nothing is ever interrupted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

_LOOK_EVERY_S = 0.1


@dataclass(frozen=True)
class Interruption:
    """How work finds out that it is to end."""

    check: Callable[[], None]
    """Raises StoppedError when it is."""
    whole: Callable[[], AbstractContextManager[None]]
    """A block in which the process is not ended; raises StoppedError instead of beginning it."""
    say: Callable[[str], None] = lambda _: None
    """Tells the user how far work has come that takes long."""


_NEVER = Interruption(lambda: None, nullcontext)
_current: ContextVar[Interruption] = ContextVar("interruption", default=_NEVER)


@contextmanager
def interruptible(by: Interruption) -> Generator[None]:
    """Work in this block, in this thread, may be ended by `by`."""
    token = _current.set(by)
    try:
        yield
    finally:
        _current.reset(token)


def checkpoint() -> None:
    """Work may end here: what it has made so far is discarded, or will be found again. Raises StoppedError."""
    _current.get().check()


class Progress:
    """Tells the user now and then how far work has come, once it has taken a while."""

    def __init__(self, every_s: float = 5.0) -> None:
        self._every_s, self._next = every_s, time.monotonic() + every_s

    def show(self, sentence: Callable[[], str]) -> None:
        """Work may end here, too. Raises StoppedError."""
        checkpoint()
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._every_s
            _current.get().say(sentence())


def pause(seconds: float) -> None:
    """Sleep, with checkpoints. Raises StoppedError."""
    deadline = time.monotonic() + seconds
    checkpoint()
    while (left := deadline - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_EVERY_S))
        checkpoint()


def uninterrupted() -> AbstractContextManager[None]:
    """A short block that is done as a whole or not at all. Raises StoppedError instead of beginning it."""
    return _current.get().whole()
