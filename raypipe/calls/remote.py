"""Keeps a call log in an object store: what workers write to their disks goes there in pieces, a second later.

Each worker writes segments in a folder of this machine, the scratch folder of the log, and a thread of its own sends
what is new as an object of whole frames. Objects never change, but for the last one of a writer that died: a later run
that finds the segments here sends it again, longer. When a run ends its pieces become one Parquet file, as segments do.

Knows nothing of what a key stands for, nor of who holds the run folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from contextlib import ExitStack, suppress
from hashlib import blake2b
from pathlib import Path

import orjson

from raypipe.calls.segment_files import SEGMENT, in_order, open_locked, read_frames, segment_paths, stem_of
from raypipe.calls.segments import HEADER
from raypipe.errors import OutputError
from raypipe.storage.paths import AnyPath, RemotePath, address_identity, remove_files, write_atomically

_SENT = ".sent"
_KEPT_S = 7 * 86_400.0
"""How long sent segments stay on a machine where no run starts: workers of the same run may read them there."""


def folder_here(calls: AnyPath) -> Path:
    """Where workers on this machine write their segments: the call log itself, or the scratch folder of one elsewhere.

    The scratch folder is the same for every run over the log, so that a later one finds what a dead worker left.
    Raises OutputError when it belongs to another user.
    """
    if isinstance(calls, Path):
        return calls
    root = Path(tempfile.gettempdir()) / f"raypipe-{os.getuid()}"
    try:
        root.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise OutputError(f"the folder {root} cannot be written: {error.strerror}; name another in TMPDIR") from None
    if root.stat().st_uid != os.getuid():
        raise OutputError(f"the folder {root} belongs to another user; name another place in TMPDIR")
    return root / blake2b(address_identity(calls).encode(), digest_size=10).hexdigest()


def send(stem: Path, calls: RemotePath, is_over: bool = False) -> None:
    """Send to the store what a writer has written since the last time, if it is dead as it stands. Raises OSError."""
    note = stem.with_name(stem.name + _SENT)
    sent = [len(HEADER), len(HEADER)]
    with suppress(FileNotFoundError, ValueError, TypeError):
        first, second = map(int, orjson.loads(note.read_bytes()))
        sent = [first, second]
    news = [
        read_frames(path, offset, is_over) if path.exists() else b""
        for path, offset in zip(segment_paths(stem), sent, strict=True)
    ]
    if not any(news):
        return
    (calls / f"{stem.name}-{sum(sent):015d}{SEGMENT}").write_bytes(HEADER + b"".join(news))
    write_atomically(note, orjson.dumps([offset + len(new) for offset, new in zip(sent, news, strict=True)]))


def send_left(calls: RemotePath, owner: str, is_over: bool, wait_s: float = 0.0) -> None:
    """Send what dead workers on this machine had not sent, and remove old segments; with `is_over`, all of `owner`.

    With `wait_s`, workers of `owner` that live are waited for. Raises OSError, OutputError when they do not end.
    """
    here = folder_here(calls)
    stems = sorted({stem_of(path) for path in here.glob(f"segment-*{SEGMENT}")})
    deadline = time.monotonic() + wait_s
    for stem in stems:
        is_own = stem.name.startswith(f"segment-{owner}-")
        with ExitStack() as stack:
            files = [
                open_locked(path, deadline if wait_s and is_own else 0.0)
                for path in segment_paths(stem)
                if path.exists()
            ]
            for file in files:
                if file is not None:
                    stack.callback(file.close)
            if files and None not in files:
                send(stem, calls, is_over=True)
                _clear(here, stem, is_over and is_own)


def _clear(here: Path, stem: Path, is_over: bool) -> None:
    """Remove what was sent, when its run is over or it is old."""
    old = time.time() - _KEPT_S
    paths = list(here.glob(f"{stem.name}*"))
    if is_over or all(path.stat().st_mtime < old for path in paths):
        for path in paths:
            path.unlink(missing_ok=True)


def segments(calls: AnyPath, owner: str) -> list[AnyPath]:
    """The segments that the workers of `owner` (`*`: of all) have written since the log was compacted, the latest last.

    Of one elsewhere: the segments on this machine, and the pieces of workers on others.
    """
    found = in_order(folder_here(calls).glob(f"segment-{owner}-*{SEGMENT}"))
    if isinstance(calls, Path):
        return [*found]
    stems = {stem_of(path).name for path in found}
    pieces = in_order(calls.glob(f"segment-{owner}-*{SEGMENT}"))
    return [*(piece for piece in pieces if piece.name.rpartition("-")[0] not in stems), *found]


def forget(calls: AnyPath) -> None:
    """Remove the call log, and what was not sent to it from this machine. Raises OSError."""
    shutil.rmtree(folder_here(calls), ignore_errors=True)
    if not isinstance(calls, Path):
        remove_files(calls.rglob("*"))
