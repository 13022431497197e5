"""Puts what a run made in the place of what stands in its folder; a kill at any moment leaves what was before or after.

What is to be committed lies ready in the work folder, which becomes the journal by one rename: from then on the commit
is decided, and whoever holds the folder next finishes it. Folders change places in one step, so that readers who know
nothing of journals find either; where the system has no such step (NFS, macOS) a folder may be missing until then. The
manifest goes last, so a journal without one is done. Knows nothing of what is in the files.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import orjson

from raypipe.storage.artifacts import ARTIFACTS
from raypipe.storage.run_files import SPEC

MANIFEST = "manifest.json"
_FOLDERS = ("data", "failures", ARTIFACTS)
_STATE, _OLD = "state.json", "old"
_AT_CWD, _RENAME_EXCHANGE = -100, 2
"""Of Linux, `linux/fcntl.h` and `linux/fs.h`."""
_RENAMEAT2: Any = getattr(ctypes.CDLL(None), "renameat2", None)
"""The C library's, which this process has loaded already; Python has no function for it."""

_Listing = list[list[Any]]


class CommitJournal:
    """The commit into the run folder `path`; `own` is raypipe's folder in it."""

    def __init__(self, path: Path, own: Path) -> None:
        self._path = path
        self._work = own / "work"
        self._journal = own / "commit"

    @property
    def is_open(self) -> bool:
        """Whether a commit was begun and not finished, by this version or an earlier one."""
        return (self._journal / MANIFEST).exists() or (self._work / _OLD).exists()

    def decide(self, manifest: bytes, spec: bytes) -> None:
        """Take what lies in the work folder for what is to stand in the run folder. Raises OSError."""
        listings = {name: _listing(self._work / name) for name in _FOLDERS if (self._work / name).is_dir()}
        (self._work / _STATE).write_bytes(orjson.dumps(listings))
        (self._work / SPEC).write_bytes(spec)
        (self._work / MANIFEST).write_bytes(manifest)
        os.rename(self._work, self._journal)

    def put_all(self) -> None:
        """Bring a commit that was decided to its end, from wherever it stopped. Raises OSError, ValueError."""
        if not (self._journal / MANIFEST).exists():
            return
        listings: Any = orjson.loads((self._journal / _STATE).read_bytes())
        if not isinstance(listings, dict):
            raise ValueError(_STATE)
        for name in _FOLDERS:
            self._put(name, listings.get(name))
        for name in (SPEC, MANIFEST):
            if (self._journal / name).exists():
                os.replace(self._journal / name, self._path / name)

    def close(self) -> None:
        """Remove what was replaced, and what the run no longer needs."""
        shutil.rmtree(self._journal, ignore_errors=True)

    def _put(self, name: str, listing: _Listing | None) -> None:
        """Let a folder stand in the place of another. `listing`: what is in the new one; `None`: there is none."""
        new, there = self._journal / name, self._path / name
        is_there = there.is_dir()
        if listing is not None and is_there and _listing(there) == listing:
            return
        if listing is not None and is_there and exchange(new, there):
            return
        if is_there:
            old = self._journal / _OLD
            old.mkdir(exist_ok=True)
            os.rename(there, old / name)
        if listing is not None:
            os.rename(new, there)

    def undo_unjournaled(self) -> None:
        """Roll back a commit of version 0.1.0 that was cut off: it moved folders one by one, then wrote the manifest.

        Raises OSError.
        """
        old = self._work / _OLD
        if not old.is_dir():
            return
        data, manifest = self._path / "data", self._path / MANIFEST
        written = [file.stat().st_mtime_ns for file in data.rglob("*.parquet")]
        # A manifest that is older than the rows beside it is that of the run before.
        if manifest.exists() and (not written or manifest.stat().st_mtime_ns < max(written)):
            for name in reversed(_FOLDERS):  # the rows last: until then they tell that this is not done
                if (old / name).is_dir():
                    if (self._path / name).is_dir():
                        os.rename(self._path / name, self._work / f"undone-{name}")
                    os.rename(old / name, self._path / name)
        shutil.rmtree(self._work, ignore_errors=True)


def _listing(folder: Path) -> _Listing:
    """Names, sizes and times of the files in a folder, which stay the same when it is renamed."""
    files = [(file, file.lstat()) for file in sorted(folder.rglob("*")) if file.is_file()]
    return [[file.relative_to(folder).as_posix(), at.st_size, at.st_mtime_ns] for file, at in files]


def exchange(one: Path, other: Path) -> bool:
    """Let two paths of one disk change places in one step; whether the system could."""
    sys.audit("raypipe.exchange", str(one), str(other))
    if _RENAMEAT2 is None:
        return False
    return _RENAMEAT2(_AT_CWD, os.fsencode(one), _AT_CWD, os.fsencode(other), _RENAME_EXCHANGE) == 0
