"""Keeps what a run writes readable by its owner alone: rows, prompts and answers are nobody else's business.

New folders get the mode 0700 and files 0600, whatever the umask and whoever writes them: libraries and steps open files
by themselves, so it is the umask of the process that changes. Where a run is shared, the umask stays as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARED = "RAYPIPE_SHARED"
"""Environment variable: `1` lets the umask decide who reads what runs write."""
_OTHERS = 0o077
_FOLDER = 0o700


class _Blocks:
    """The blocks of this process whose files are private; they may overlap, each in a thread of its own."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.before = 0


_blocks = _Blocks()


def are_files_shared(wanted: bool) -> bool:
    """Whether files are left to the umask: because the user wants it, or the environment says so."""
    return wanted or os.environ.get(SHARED) == "1"


@contextmanager
def owner_only(shared: bool = False) -> Generator[None]:
    """Inside, files that this process makes are its user's alone, unless they are shared."""
    if are_files_shared(shared):
        yield
        return
    _enter()
    try:
        yield
    finally:
        with _blocks.lock:
            _blocks.count -= 1
            if not _blocks.count:
                os.umask(_blocks.before)


def keep_private(shared: bool) -> None:
    """From now on, files that this process makes are its user's alone: for a worker, which does nothing else."""
    if not shared:
        _enter()


def _enter() -> None:
    with _blocks.lock:
        if not _blocks.count:
            _blocks.before = os.umask(_OTHERS)
        _blocks.count += 1


def restrict_folder(folder: object) -> None:
    """Let nobody else into a folder that is there already, where files are private and the system lets us."""
    if isinstance(folder, Path) and _blocks.count:
        with suppress(OSError):  # it belongs to somebody else, or its disk knows no modes
            if folder.stat().st_mode & _OTHERS:
                folder.chmod(_FOLDER)
