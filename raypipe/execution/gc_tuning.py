"""I let Python look for cyclic garbage rarely while rows move.

A run makes many objects and few cycles: with Python's own thresholds a seventh of its processor time goes into looking.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Generator
from contextlib import contextmanager

_THRESHOLDS = (50_000, 20, 100)

_lock = threading.Lock()
_runs = 0
_usual = gc.get_threshold()


@contextmanager
def rare_collection() -> Generator[None]:
    """Collect rarely inside; what was set before holds again once nobody is inside any more."""
    global _runs, _usual
    with _lock:
        _runs += 1
        if _runs == 1:
            _usual = gc.get_threshold()
            gc.set_threshold(*_THRESHOLDS)
    try:
        yield
    finally:
        with _lock:
            _runs -= 1
            if not _runs:
                gc.set_threshold(*_usual)


def collect_rarely() -> None:
    """For the whole life of a process that has nothing else to do."""
    gc.set_threshold(*_THRESHOLDS)
