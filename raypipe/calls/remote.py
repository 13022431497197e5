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
from contextlib import ExitStack
from hashlib import blake2b
from io import BytesIO
from pathlib import Path

import orjson

from raypipe.calls.segments import (
    HEADER,
    SEGMENT,
    WAIT_S,
    open_locked,
    read_frames,
    segment_paths,
    stem_of,
    write_parquet,
)
from raypipe.calls.segments import compact as compact_here
from raypipe.errors import OutputError
from raypipe.storage.paths import (
    AnyPath,
    RemotePath,
    address_identity,
    copy_file,
    map_concurrently,
    remove_files,
    write_atomically,
)

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


def send(stem: Path, calls: RemotePath) -> None:
    """Send to the store what a writer has written since the last time. Raises OSError."""
    note = stem.with_name(stem.name + _SENT)
    sent: list[int] = orjson.loads(note.read_bytes()) if note.exists() else [len(HEADER), len(HEADER)]
    news = [
        read_frames(path, offset) if path.exists() else b""
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
                send(stem, calls)
                _clear(here, stem, is_over and is_own)


def _clear(here: Path, stem: Path, is_over: bool) -> None:
    """Remove what was sent, when its run is over or it is old."""
    old = time.time() - _KEPT_S
    paths = list(here.glob(f"{stem.name}*"))
    if is_over or all(path.stat().st_mtime < old for path in paths):
        for path in paths:
            path.unlink(missing_ok=True)


def compact(calls: AnyPath, owner: str, wait_s: float = WAIT_S) -> None:
    """Turn what ended writers wrote into one Parquet file: of all of them here, of `owner`'s in a store.

    Writers of `owner` on this machine that still live are waited for. Raises OSError, OutputError when one does not
    end in time.
    """
    if isinstance(calls, Path):
        compact_here(calls, owner, wait_s)
        return
    send_left(calls, owner, is_over=True, wait_s=wait_s)
    pieces = list(calls.glob(f"segment-{owner}-*{SEGMENT}"))
    if not pieces:
        return
    with tempfile.TemporaryDirectory(prefix="raypipe-") as folder:
        contents = map(BytesIO, map_concurrently(RemotePath.read_bytes, pieces))
        made = write_parquet(Path(folder), contents)
        if made is not None:
            copy_file(made, calls / made.name)
    remove_files(pieces)


def segments(calls: AnyPath, owner: str) -> list[AnyPath]:
    """The segments that the workers of `owner` (`*`: of all) have written since the log was compacted, the latest last.

    Of one elsewhere: the segments on this machine, and the pieces of workers on others.
    """
    here = folder_here(calls)
    found = sorted(here.glob(f"segment-{owner}-*{SEGMENT}"), key=lambda path: path.stat().st_mtime)
    if isinstance(calls, Path):
        return [*found]
    stems = {stem_of(path).name for path in found}
    pieces = calls.glob(f"segment-{owner}-*{SEGMENT}")
    return [*(piece for piece in pieces if piece.name.rpartition("-")[0] not in stems), *found]


def forget(calls: AnyPath) -> None:
    """Remove the call log, and what was not sent to it from this machine. Raises OSError."""
    shutil.rmtree(folder_here(calls), ignore_errors=True)
    if not isinstance(calls, Path):
        remove_files(calls.rglob("*"))
