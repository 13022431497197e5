"""Tells a run that a folder that it writes to was taken away. Knows nothing of what is written there.

What is open stays so when its folder is removed, renamed or replaced: writing goes on without an error, into nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

from raypipe.concurrency.background import start_thread
from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.storage.paths import AnyPath

LOOK_EVERY_S = 1.0


@contextmanager
def watching_folders(folders: Sequence[AnyPath], lost: Callable[[RaypipeError], None]) -> Generator[None]:
    """In this block, `lost` is called once with an error when a folder of this machine is gone or another one.

    Two looks in a row have to agree. Raises OSError when one is not there at first.
    """
    here = {path: _identity(path) for path in folders if isinstance(path, Path)}
    ended = threading.Event()

    def look() -> None:
        missed: Path | None = None
        while not ended.wait(LOOK_EVERY_S):
            gone = next((path for path, identity in here.items() if _is_gone(path, identity)), None)
            if gone is not None and gone == missed:
                problem = "was removed, renamed or replaced while the run wrote to it, so the run was ended"
                way = "put it back, if it is still there, and run the same command again"
                lost(InfrastructureError(f"the folder {gone} {problem}; {way}: calls in its log are not sent again"))
                return
            missed = gone

    thread = start_thread(look, "the watch over the run's folders", lost)
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _identity(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino


def _is_gone(path: Path, identity: tuple[int, int]) -> bool:
    try:
        return _identity(path) != identity
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:  # a disk elsewhere that does not answer at the moment
        return False
