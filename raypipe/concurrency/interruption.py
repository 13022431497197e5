"""Lets long work end between two pieces of it, and short work that must not be cut be done whole.

Knows nothing of who wants it to end: whoever begins the work says how that is found out, and the work, however deep
below, asks. Without anybody who said so, nothing is ever interrupted.
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
    """A block in which nobody ends the process; raises StoppedError instead of beginning it."""


_NEVER = Interruption(lambda: None, nullcontext)
_current: ContextVar[Interruption] = ContextVar("interruption", default=_NEVER)


@contextmanager
def interruptible(by: Interruption) -> Generator[None]:
    """What is done inside, in this thread, may be ended by `by`."""
    token = _current.set(by)
    try:
        yield
    finally:
        _current.reset(token)


def checkpoint() -> None:
    """Work may end here: what it has made so far is of no use, or will be found again. Raises StoppedError."""
    _current.get().check()


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
