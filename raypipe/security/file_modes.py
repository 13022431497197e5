"""Keeps what a run writes readable by its owner alone: rows, prompts and answers are private.

New folders get the mode 0700 and files 0600, whatever the umask and whoever writes them: libraries and steps open files
themselves, so the umask of the process is changed. Where a run is shared, the umask stays as it is.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

SHARED = "RAYPIPE_SHARED"
"""Environment variable: `1` lets the umask decide who reads what runs write."""
_OTHERS = 0o077
_FOLDER = 0o700


@dataclass
class _Blocks:
    """The blocks of this process whose files are private; they may overlap, each in a thread of its own."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    count: int = 0
    before: int = 0
    """The umask outside of all blocks."""


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
    keep_private(shared=False)
    try:
        yield
    finally:
        with _blocks.lock:
            _blocks.count -= 1
            if not _blocks.count:
                os.umask(_blocks.before)


def keep_private(shared: bool) -> None:
    """From now on, files that this process makes are its user's alone: for a worker, which does nothing else."""
    if shared:
        return
    with _blocks.lock:
        if not _blocks.count:
            _blocks.before = os.umask(_OTHERS)
        _blocks.count += 1


def restrict_folder(folder: object) -> None:
    """Close a folder that is there already to other users, where files are private and the system allows it."""
    if isinstance(folder, Path) and _blocks.count:
        with suppress(OSError):  # it belongs to somebody else, or its disk knows no modes
            if folder.stat().st_mode & _OTHERS:
                folder.chmod(_FOLDER)
