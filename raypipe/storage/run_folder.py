"""The folder of a run: held by one run at a time, committed by rename, and never a folder that holds something else.

Layout: `data/<leaf>/`, `failures/`, `artifacts/<step>/<name>/`, `calls/`, `manifest.json`, `pipeline.yaml` for readers;
`.raypipe/` holds the mark of a run folder, the lock, the work of a run that has not been committed, and the journal of
a commit that is under way.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any, Generic

import orjson

from raypipe.concurrency.interruption import pause, uninterrupted
from raypipe.errors import OutputError
from raypipe.security.file_modes import restrict_folder
from raypipe.security.symlinks import check_no_links
from raypipe.storage.artifacts import ARTIFACTS, copy_missing_artifacts
from raypipe.storage.commit_journal import MANIFEST, CommitJournal
from raypipe.storage.paths import P, explain_os_error
from raypipe.storage.run_files import parse_manifest

MARK = "raypipe run folder 1\n"
_ENDING_S, _LOOK_EVERY_S = 5.0, 0.1
"""How long a stopped run of this process may take to let go of its folder."""


class Layout(Generic[P]):
    """The paths in a run folder, absolute."""

    def __init__(self, path: P) -> None:
        self.path: P = path
        self.own = self.path / ".raypipe"
        self.work = self.own / "work"
        self.parts = self.work / "parts"
        self.calls = self.path / "calls"
        self.manifest = self.path / MANIFEST


class RunFolder(Layout[Path]):
    """An output folder on this machine, or on a disk that it has."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.absolute())
        self._journal = CommitJournal(self.path, self.own)

    @property
    def owner(self) -> str:
        """Identifies this folder in names of call log segments."""
        return blake2b(str(self.path.resolve()).encode(), digest_size=6).hexdigest()

    def check(self) -> None:
        """Raises OutputError when the folder holds something else than a run, or a link to something else."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"the output path {self.path} is a file; name a folder with --out")
        if self.path.is_dir() and not (self.own / "mark").exists() and any(self.path.iterdir()):
            problem = "is not empty and holds no raypipe run; it is left as it is, name another folder with --out"
            raise OutputError(f"the output folder {self.path} {problem}")
        check_no_links(self.path, [ARTIFACTS])

    @contextmanager
    def held(self, lost: Callable[[], None] = lambda: None) -> Generator[None]:
        """Makes the folder and holds it for this run alone in this block. Raises OutputError.

        `lost` is for folders that another run can take over, which it cannot here.
        """
        self.check()
        try:
            self.own.mkdir(parents=True, exist_ok=True)
            restrict_folder(self.path)
            (self.own / "mark").write_text(MARK)
            lock = os.open(self.own / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OutputError(f"the output folder {self.path} cannot be written: {error.strerror}") from None
        try:
            self._lock(lock)
            self._settle()
            yield
        finally:
            os.close(lock)

    def _lock(self, lock: int) -> None:
        """Take the lock, which the system releases when its process ends, however it ends."""
        me, deadline = f"process {os.getpid()} on {socket.gethostname()}", time.monotonic() + _ENDING_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = os.pread(lock, 200, 0).decode(errors="replace").strip() or "another process"
            if holder != me or time.monotonic() > deadline:
                problem = f"is in use by {holder}; wait for it or stop it"
                raise OutputError(f"the output folder {self.path} {problem}")
            pause(_LOOK_EVERY_S)
        os.ftruncate(lock, 0)
        os.pwrite(lock, me.encode(), 0)

    def _settle(self) -> None:
        """Finish the commit of a run that was killed in the midst of it. Raises OutputError."""
        try:
            self._journal.undo_unjournaled()
            self._journal.put_all()
        except (OSError, ValueError) as error:
            reason = explain_os_error(error) if isinstance(error, OSError) else "its journal is damaged"
            raise OutputError(f"{self._half_done} {reason}; solve that and run the same command again") from None
        self._journal.close()

    @property
    def _half_done(self) -> str:
        return f"the commit of a run into {self.path} was cut off and cannot be finished:"

    def settle(self) -> None:
        """For readers: finish a commit that was cut off, wait for one that is under way. Raises OutputError."""
        deadline = time.monotonic() + _ENDING_S
        while self._journal.is_open:
            try:
                with self.held():
                    return
            except OutputError as error:
                if time.monotonic() > deadline:
                    raise OutputError(f"{self._half_done} {error}") from None
            pause(_LOOK_EVERY_S)

    def start_over(self) -> None:
        """Remove what an earlier run left uncommitted."""
        shutil.rmtree(self.work, ignore_errors=True)
        try:
            self.parts.mkdir(parents=True)
        except OSError as error:
            raise OutputError(f"the output folder {self.path} cannot be written: {error.strerror}") from None

    def committed(self) -> dict[str, Any]:
        """The manifest of the run that stands here; empty when none does."""
        try:
            return parse_manifest(self.manifest.read_bytes())
        except (OSError, ValueError):
            return {}

    def files(self, name: str) -> list[Path]:
        """The committed files of a leaf (`data/<leaf>`) or of the failures, in order."""
        return sorted((self.path / name).glob("part-*.parquet"))

    def check_held(self) -> None:
        """Does nothing: the system holds the lock as long as this process lives."""

    def commit(self, manifest: dict[str, Any], spec: bytes, keeps_artifacts: bool) -> None:
        """Put rows, failures and artifacts of the work folder in place of what stands there, all of them or none.

        What the work folder does not have is gone then, but for artifacts that are to be kept. Raises OSError.
        """
        if keeps_artifacts:
            copy_missing_artifacts(self.path / ARTIFACTS, self.work / ARTIFACTS)
        content = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
        with uninterrupted():
            self._journal.decide(content, spec)
            self._journal.put_all()
        self._journal.close()

    def clear(self) -> None:
        """Remove the work folder."""
        shutil.rmtree(self.work, ignore_errors=True)


def settle(path: Path) -> None:
    """Finish what a killed run has left half committed in a folder, before it is read. Raises OutputError."""
    RunFolder(path).settle()
