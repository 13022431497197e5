"""Lets Python look for cyclic garbage rarely while rows move. Knows nothing of what moves them.

A run makes many objects and few cycles: with Python's own thresholds a seventh of its CPU time goes into looking.
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
    """Collect rarely inside; the thresholds of before hold again once the last such block is left."""
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
    """The same for the whole life of a process that is the run's alone."""
    gc.set_threshold(*_THRESHOLDS)
