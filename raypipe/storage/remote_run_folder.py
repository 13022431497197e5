"""The folder of a run in an object store, where nothing can be renamed and no system keeps a lock.

New files get names that no earlier run used; the manifest, which lists the files that count, is the commit; what it
does not list is removed afterwards. `pipeline.yaml` is written under a name of its own first, which the manifest names,
so that it never belongs to another run than the manifest. Knows nothing of the call log in the folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from itertools import chain
from typing import Any
from uuid import uuid4

import orjson

from raypipe.concurrency.interruption import uninterrupted
from raypipe.errors import OutputError
from raypipe.storage.artifacts import ARTIFACTS, find_latest_versions
from raypipe.storage.paths import (
    AnyPath,
    RemotePath,
    address_identity,
    check_reachable,
    copy_file,
    explain_os_error,
    map_concurrently,
    remove_files,
)
from raypipe.storage.run_files import SPEC, list_files, parse_manifest, spec_path
from raypipe.storage.run_folder import MARK, Layout, RunFolder

_OUTPUTS = ("data", "failures", ARTIFACTS)


class RemoteRunFolder(Layout[RemotePath]):
    """One output folder in an object store."""

    def __init__(self, path: RemotePath) -> None:
        super().__init__(path)
        self.check_held: Callable[[], None] = lambda: None
        """Raises OutputError when another run has taken the folder, OSError."""

    @property
    def owner(self) -> str:
        """Identifies this folder in names of call log segments."""
        return blake2b(address_identity(self.path).encode(), digest_size=6).hexdigest()

    def check(self) -> None:
        """Raises OutputError when the folder holds something else than a run, InfrastructureError when out of reach."""
        check_reachable(self.path)
        if (self.own / "mark").exists():
            return
        if self.path.exists():
            problem = "is not empty and holds no raypipe run; it is left as it is, name another folder with --out"
            raise OutputError(f"the output folder {self.path} {problem}")

    @contextmanager
    def held(self, lost: Callable[[], None] = lambda: None) -> Generator[None]:
        """Holds the folder for this run alone in this block; `lost` is called when another run takes it over.

        Raises OutputError, InfrastructureError when the store cannot be reached.
        """
        from raypipe.storage.lock import RemoteLock

        try:
            self.check()
            (self.own / "mark").write_bytes(MARK.encode())
            lock = RemoteLock(self.own / "lock", self.path, lost)
            lock.take()
            try:
                self.check_held = lock.check
                yield
            finally:
                lock.release()
        except OSError as error:
            raise OutputError(f"the output folder {self.path} cannot be used: {explain_os_error(error)}") from None

    def start_over(self) -> None:
        """Finish the commit of a run that was killed in the midst of it, and remove what was not committed.

        Raises OSError.
        """
        manifest = self.committed()
        self._finish(manifest)
        self.clear()
        remove_files(self._stray(manifest))

    def _finish(self, manifest: Mapping[str, Any]) -> None:
        """Let `pipeline.yaml` be that of the manifest."""
        spec = spec_path(self.path, manifest)
        if spec != self.path / SPEC:
            (self.path / SPEC).write_bytes(spec.read_bytes())
        remove_files(self.own.glob(f"*-{SPEC}"))

    def committed(self) -> dict[str, Any]:
        """The manifest of the run that stands here; empty when none does. Raises OSError, OutputError."""
        try:
            return parse_manifest(self.manifest.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError:
            problem = "is damaged, so it does not say which files count; remove it to start anew"
            raise OutputError(f"{self.manifest} {problem}") from None

    def files(self, name: str) -> list[RemotePath]:
        """The committed files of a leaf (`data/<leaf>`) or of the failures, in order."""
        manifest = self.committed()
        entries = [*manifest["leaves"].values(), manifest["failures"]]
        return [file for entry in entries if entry["path"] == name for file in list_files(self.path, entry)]

    def commit(self, manifest: dict[str, Any], spec: bytes, keeps_artifacts: bool) -> None:
        """Put rows, failures and artifacts of the work folder in place of those that the present manifest lists.

        Completes the manifest. Raises OSError, OutputError when another run has taken the folder.
        """
        commit = manifest["commit"] = f"{time.time_ns():020d}-{uuid4().hex[:6]}"
        prefix = f"part-{commit}-"
        copies: list[tuple[RemotePath, RemotePath]] = []
        for entry in [*manifest["leaves"].values(), manifest["failures"]]:
            made = sorted((self.work / entry["path"]).glob("part-*.parquet"))
            entry["files"] = [prefix + file.name.removeprefix("part-") for file in made]
            copies += zip(made, list_files(self.path, entry), strict=True)
        artifacts: dict[str, str] = self.committed().get(ARTIFACTS, {}) if keeps_artifacts else {}
        for (step, name), version in find_latest_versions(self.work / ARTIFACTS).items():
            path = artifacts[f"{step}/{name}"] = f"{ARTIFACTS}/{step}/{name}/{version.name}"
            copies += [(file, self.path / path / str(file.relative_to(version))) for file in version.rglob("*")]
        manifest[ARTIFACTS] = artifacts
        list(map_concurrently(lambda pair: copy_file(*pair), copies))
        (self.own / f"{commit}-{SPEC}").write_bytes(spec)
        content = orjson.dumps(manifest, option=orjson.OPT_INDENT_2)
        self.check_held()
        with uninterrupted():
            self.manifest.write_bytes(content)
        self._finish(manifest)
        remove_files(self._stray(manifest))
        self.clear()

    def _stray(self, manifest: dict[str, Any]) -> list[RemotePath]:
        """Outputs that a manifest does not list."""
        entries = [*manifest.get("leaves", {}).values(), *filter(None, [manifest.get("failures")])]
        listed = {file for entry in entries for file in list_files(self.path, entry)}
        kept = [f"{self.path.path}/{path}/" for path in manifest.get(ARTIFACTS, {}).values()]
        there = chain.from_iterable((self.path / name).rglob("*") for name in _OUTPUTS)
        return [one for one in there if one not in listed and not one.path.startswith(tuple(kept))]

    def clear(self) -> None:
        """Remove the work folder. Raises OSError."""
        remove_files(self.work.rglob("*"))


AnyRunFolder = RunFolder | RemoteRunFolder


def run_folder_at(path: AnyPath) -> AnyRunFolder:
    """The run folder at a path."""
    return RemoteRunFolder(path) if isinstance(path, RemotePath) else RunFolder(path)
