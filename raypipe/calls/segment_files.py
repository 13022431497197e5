"""Names, orders and locks the files of a call log, and appends to segments. Knows nothing of what a frame holds.

Every file has a number in its name that is larger than those of all files that were there when it was begun, so that
what was logged later is told without a clock. A segment is locked while its writer lives, and a log by each run that
uses it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, TypeVar
from uuid import uuid4

from raypipe.calls.segments import FRAME_BYTES, HEADER, is_cut
from raypipe.concurrency.interruption import pause
from raypipe.errors import OutputError
from raypipe.storage.paths import AnyPath, RemotePath

SEGMENT = ".calls"
_ROOM, _NEW, _LOCK = ".room", ".new", ".lock"
TEMPORARY = ".tmp"
_ROOM_BYTES = 1 << 20
"""Kept for the answers of calls that are in flight when the disk is full."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NUMBERED = re.compile(r"(?:calls|segment-([0-9a-z]+))-(\d{20})-")
_ENDING_S = 5.0
"""How long the run before, in this process, may take to let go of the log."""
WAIT_S = 30.0
"""How long workers of an earlier run have to end."""
P = TypeVar("P", Path, RemotePath)


def number_of(path: AnyPath) -> int:
    """The number in the name of a file; 0 where there is none, as in segments of version 1."""
    found = _NUMBERED.match(path.name)
    return int(found[2]) if found else 0


def next_number(*folders: AnyPath) -> int:
    """A number larger than those of all files of the log: the time, as long as that is larger. Raises OSError."""
    there = [number_of(path) for folder in folders for kind in ("calls-*", "segment-*") for path in folder.glob(kind)]
    return max(time.time_ns(), 1 + max(there, default=0))


def owner_of(path: AnyPath) -> str:
    """The owner of a segment, as its name says."""
    return path.name.split("-")[1]


def in_order(paths: Iterable[P]) -> list[P]:
    """Segments, the latest last; those of version 1, which have no number, by their times before all others."""

    def place(path: P) -> tuple[int, float, str]:
        number, since = number_of(path), 0.0
        if not number and isinstance(path, Path):
            with suppress(FileNotFoundError):
                since = path.stat().st_mtime
        return number, since, path.name

    return sorted(paths, key=place)


def segment_paths(stem: Path) -> list[Path]:
    """The two segments of one writer."""
    return [stem.with_name(f"{stem.name}-{side}{SEGMENT}") for side in "ab"]


def stem_of(path: Path) -> Path:
    """The path that the names of both segments of a writer begin with."""
    return path.with_name(path.name.removesuffix(SEGMENT)[: -len("-a")])


class SegmentWriter:
    """Appends completions to new segments; they stay locked while their writer lives.

    There are two, taken in turn from one `sync` to the next: a write to a file waits for a running fsync of the same
    file (0.1 to 0.5 s measured), and would hold up every call of the worker.
    """

    def __init__(self, folder: Path, owner: str, number: int | None = None) -> None:
        """`number`: larger than those of all files of the log; by default of all in `folder`."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            name = f"segment-{owner}-{number or next_number(folder):020d}-{uuid4().hex[:12]}"
            self.stem = folder / name
            """The path that the names of both segments begin with."""
            self._files = [_new_segment(path) for path in segment_paths(self.stem)]
            self._room: Path | None = folder / f"{name}{_ROOM}"
            self._room.write_bytes(bytes(_ROOM_BYTES))
        except OSError as error:
            raise OutputError(f"the call log {folder} cannot be written: {error.strerror}") from None
        self._active = 0
        self._has_news = False

    def write(self, frames: bytes) -> None:
        """Write frames through. Raises OutputError when the disk does not take them."""
        self._has_news = True
        left = memoryview(frames)
        while left:
            try:
                left = left[os.write(self._files[self._active], left) :]
            except OSError as error:
                if error.errno not in _FULL or self._room is None:
                    raise OutputError(f"the call log {self._folder} cannot be written: {error.strerror}") from None
                self._give_room()

    @property
    def is_full(self) -> bool:
        """Whether the disk is full: what is written now goes into the room that was kept; send no call."""
        return self._room is None

    def _give_room(self) -> None:
        if self._room is not None:
            self._room.unlink(missing_ok=True)
            self._room = None

    def sync(self) -> None:
        """Sync what was written to the disk; a no-op when nothing is new. May run beside `write`.

        Raises OutputError.
        """
        if self._has_news:
            self._has_news = False
            written, self._active = self._active, 1 - self._active
            try:
                os.fsync(self._files[written])
            except OSError as error:
                raise OutputError(f"the call log {self._folder} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        self.sync()
        self._give_room()
        for file in self._files:
            os.close(file)


def _new_segment(path: Path) -> int:
    """A new segment, which has its name only once it is locked."""
    unseen = path.with_suffix(_NEW)
    file = create_locked(unseen, os.O_APPEND)
    os.write(file, HEADER)
    unseen.rename(path)
    return file


def create_locked(path: Path, flags: int = 0) -> int:
    """A file that is there only while it is locked: what `remove_leftovers` of another run took is made again."""
    deadline = time.monotonic() + _ENDING_S
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | flags, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return file
            os.close(file)
            pause(0.05)
            continue
        if os.fstat(file).st_nlink:
            return file
        os.close(file)


def read_frames(path: Path, offset: int, is_over: bool) -> bytes:
    """The content of a segment from `offset` on. Unless its writer is dead, without a cut frame at its end."""
    with path.open("rb") as file:
        file.seek(max(offset, len(HEADER)))
        content = file.read()
    end = 0
    while (size := int.from_bytes(content[end : end + 4], "little")) and end + FRAME_BYTES + size <= len(content):
        end += FRAME_BYTES + size
    return content if is_over and not is_cut(content[end:]) else content[:end]


def open_locked(path: Path, deadline: float) -> BinaryIO | None:
    """The file, locked; `None` where its writer lives, or where another run over the same log was faster.

    With a `deadline` (`time.monotonic`), a writer that lives is waited for. Raises OutputError when it does not end.
    """
    try:
        file = path.open("r+b")  # NFS locks exclusively only what may be written
    except (FileNotFoundError, PermissionError) as error:
        if deadline and isinstance(error, PermissionError):
            raise
        return None
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(file.fileno()).st_nlink:
                return file
            file.close()
            return None
        except BlockingIOError:
            if not deadline:
                file.close()
                return None
            if time.monotonic() > deadline:
                file.close()
                problem = "a worker of an earlier run still writes to it; wait for it to end or stop it, then run again"
                raise OutputError(f"the call log {path}: {problem}") from None
            pause(0.05)


@contextmanager
def in_use(calls: AnyPath, owner: str) -> Generator[None]:
    """Inside, no other run takes the segments of `owner` for those of a dead one. Raises OSError."""
    if not isinstance(calls, Path):
        yield
        return
    path = calls / f"run-{owner}{_LOCK}"
    file = create_locked(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def is_used_by(folder: Path, owner: str) -> bool:
    """Whether a run of `owner` lives, or a worker of it."""
    for path in (folder / f"run-{owner}{_LOCK}", *folder.glob(f"segment-{owner}-*{SEGMENT}")):
        file = open_locked(path, 0.0)
        if file is None and path.exists():
            return True
        if file is not None:
            file.close()
    return False


def is_used_by_others(folder: Path, owner: str) -> bool:
    """Whether a run of another owner uses the log."""
    found = {path.name.removeprefix("run-").removesuffix(_LOCK) for path in folder.glob(f"run-*{_LOCK}")}
    return any(is_used_by(folder, one) for one in found - {owner})


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers and compactions left half made."""
    for path in [path for kind in (TEMPORARY, _NEW, _LOCK) for path in folder.glob(f"*{kind}")]:
        file = open_locked(path, 0.0)
        if file is not None:
            path.unlink(missing_ok=True)
            file.close()
    for room in folder.glob(f"segment-*{_ROOM}"):
        if not any(path.exists() for path in segment_paths(room.with_suffix(""))):
            room.unlink(missing_ok=True)


def remove_room(segment: Path) -> None:
    """Remove the room that the writer of a segment kept, once it is dead."""
    segment.with_name(stem_of(segment).name + _ROOM).unlink(missing_ok=True)
