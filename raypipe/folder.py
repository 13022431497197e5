"""I am the folder of a run: held by one run at a time, committed by rename, never anybody else's.

Layout: `data/<leaf>/`, `failures/`, `artifacts/<step>/<name>/`, `calls/`, `manifest.json`, `pipeline.yaml` for readers;
`.raypipe/` holds the mark that the folder is ours, the lock and the work of a run that has not been committed.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson

from raypipe.errors import OutputError

_MARK = "raypipe run folder 1\n"


class RunFolder:
    """One output folder. Paths are absolute."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.own = self.path / ".raypipe"
        self.work = self.own / "work"
        self.parts = self.work / "parts"
        self.calls = self.path / "calls"
        self.manifest = self.path / "manifest.json"

    @property
    def owner(self) -> str:
        """Stands for this folder in names of call log segments."""
        return blake2b(str(self.path.resolve()).encode(), digest_size=6).hexdigest()

    def check(self) -> None:
        """Raises OutputError when the folder holds something that is not a run of ours."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"the output path {self.path} is a file; name a folder with --out")
        if self.path.is_dir() and not (self.own / "mark").exists() and any(self.path.iterdir()):
            problem = "is not empty and holds no raypipe run; it is left as it is, name another folder with --out"
            raise OutputError(f"the output folder {self.path} {problem}")

    @contextmanager
    def held(self) -> Generator[None]:
        """The folder exists, is ours and nobody else's while inside. Raises OutputError."""
        self.check()
        try:
            self.own.mkdir(parents=True, exist_ok=True)
            (self.own / "mark").write_text(_MARK)
            lock = os.open(self.own / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"the output folder {self.path} cannot be written: {error.strerror}") from None
        try:
            self._lock(lock)
            yield
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        """The system releases the lock when its process ends, however it ends."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
            raise OutputError(f"the output folder {self.path} is in use by {holder}; wait for it or stop it") from None
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)

    def start_over(self, forget_calls: bool) -> None:
        """Remove what an earlier run left uncommitted, and with `forget_calls` its call log."""
        shutil.rmtree(self.work, ignore_errors=True)
        if forget_calls:
            shutil.rmtree(self.calls, ignore_errors=True)
        try:
            self.parts.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"the output folder {self.path} cannot be written: {error.strerror}") from None

    def committed(self) -> dict[str, Any]:
        """The manifest of the run that stands here; empty when none does."""
        try:
            return orjson.loads(self.manifest.read_bytes())
        except (OSError, ValueError):
            return {}

    def commit(self, names: list[str]) -> None:
        """Move `names` from the work folder in place of what stands there; each by one rename.

        What the work folder does not have is gone then.
        """
        old = self.work / "old"
        old.mkdir()
        for name in names:
            target = self.path / name
            if target.exists():
                os.rename(target, old / name)
            if (self.work / name).exists():
                os.rename(self.work / name, target)

    def clear(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.work, ignore_errors=True)


def write_whole(path: Path, content: bytes) -> None:
    """Write a small file so that a reader sees the old or the new content."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
