"""Keeps files that steps write beside their rows: each artifact is a folder that appears whole.

Knows nothing of what is in them, nor of when the run that they belong to is committed.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from errno import EEXIST, ENOTEMPTY
from pathlib import Path
from typing import Any, Generic
from uuid import uuid4

import orjson

from raypipe.errors import OutputError, SpecError
from raypipe.storage.paths import AnyPath, P, RemotePath, copy_file, explain_os_error

ARTIFACTS = "artifacts"
"""The folder of a run for artifacts."""
METADATA = "metadata.json"
_MOST_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Artifact(Generic[P]):
    """One artifact of a run."""

    step: str
    name: str
    path: P
    """The folder with its files and `metadata.json`."""

    @property
    def metadata(self) -> dict[str, Any]:
        """What the step noted about it; empty where nothing was noted or it cannot be read."""
        with suppress(OSError, ValueError):
            return orjson.loads((self.path / METADATA).read_bytes())
        return {}

    @property
    def files(self) -> list[P]:
        """The files that the step wrote, in order."""
        own = self.path / METADATA
        found = (file for file in self.path.rglob("*") if isinstance(file, RemotePath) or file.is_file())
        return sorted(file for file in found if file != own)


def list_artifacts(folder: Path) -> Iterator[Artifact[Path]]:
    """The artifacts of a run, by step and name, from its folder `artifacts`."""
    for step in sorted(folder.glob("*")):
        for path in sorted(step.glob("*")):
            yield Artifact(step.name, path.name, path)


@dataclass(frozen=True, slots=True)
class ArtifactStore:
    """Where a step's artifacts are kept."""

    folder: AnyPath
    """That of the whole run; all workers of a step share it."""
    step: str

    def save(self, name: str, write: Callable[[Path], Any], metadata: Mapping[str, Any] | None) -> None:
        """Let `write` fill an empty folder, and put that in the place of what has this name; the last one wins.

        Raises SpecError for an unsound name or metadata that is not JSON, OutputError when it cannot be written.
        """
        content = self._check(name, metadata or {})
        path = self.folder / self.step / name
        try:
            with tempfile.TemporaryDirectory(prefix="raypipe-", dir=self._unfinished()) as scratch:
                new = Path(scratch) / "new"
                new.mkdir()
                write(new)
                (new / METADATA).write_bytes(content)
                path.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(path, Path):
                    _replace(new, path, Path(scratch))
                    return
                version = path / f"{time.time_ns():020d}-{uuid4().hex[:8]}"
                files = sorted(file.relative_to(new).as_posix() for file in new.rglob("*") if file.is_file())
                for file in sorted(files, key=lambda file: file == METADATA):  # complete once it is there
                    copy_file(new / file, version / file)
        except OSError as error:
            problem = f"cannot be written: {explain_os_error(error)}; solve that and run the same command again"
            raise OutputError(f"the artifact {name!r} of step {self.step!r} {problem}") from None

    def _unfinished(self) -> Path | None:
        """Where to write: from beside the folder of a run an artifact can be renamed into it."""
        if isinstance(self.folder, RemotePath):
            return None
        unfinished = self.folder.with_name(f"{self.folder.name}-unfinished")
        unfinished.mkdir(parents=True, exist_ok=True)
        return unfinished

    def _check(self, name: str, metadata: Mapping[str, Any]) -> bytes:
        where = f"step {self.step!r}"
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
            problem = f"saves an artifact as {name!r}; a name has letters, digits, '_', '-' and '.', no other sign"
            raise SpecError.of(where, problem)
        try:
            return orjson.dumps(dict(metadata), option=orjson.OPT_INDENT_2 | orjson.OPT_SERIALIZE_NUMPY)
        except TypeError as error:
            problem = f"saves the artifact {name!r} with metadata that JSON cannot hold: {error}"
            raise SpecError.of(where, problem) from None


def _replace(new: Path, target: Path, scratch: Path) -> None:
    """Rename a folder to a path where another may stand; waits for a worker that does the same."""
    for number in range(_MOST_TRIES):
        try:
            os.rename(new, target)
            return
        except OSError as error:
            if error.errno not in (EEXIST, ENOTEMPTY) or number == _MOST_TRIES - 1:
                raise
        with suppress(FileNotFoundError):
            os.rename(target, scratch / f"old-{number}")


def find_latest_versions(folder: RemotePath) -> dict[tuple[str, str], RemotePath]:
    """Of each artifact in a store, by step and name, the last complete version."""
    found: dict[tuple[str, str], RemotePath] = {}
    for file in folder.rglob(METADATA):
        step, name, *below = file.relative_to(folder).parts
        if len(below) == 2:
            found[step, name] = max(file.parent, found.get((step, name), file.parent))
    return found


def copy_missing_artifacts(before: Path, now: Path) -> None:
    """Copy the artifacts that only an earlier run wrote to those of this one. Raises OSError."""
    for artifact in list_artifacts(before):
        target = now / artifact.step / artifact.name
        if not target.exists():
            shutil.copytree(artifact.path, target, symlinks=True)
