"""Finds the files that a manifest lists of a run in an object store, and brings them to a folder of this machine.

Knows nothing of how they were written.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import orjson

from raypipe.errors import InputError
from raypipe.security.dataset_notes import is_name
from raypipe.storage.artifacts import ARTIFACTS, METADATA, Artifact
from raypipe.storage.paths import AnyPath, RemotePath, copy_file, map_concurrently

SPEC = "pipeline.yaml"


def spec_path(path: AnyPath, manifest: Mapping[str, Any]) -> AnyPath:
    """Where the pipeline of a committed run is written. Raises OSError.

    In a store it has a name of its own from shortly before the manifest is written until shortly after.
    """
    commit = manifest.get("commit")
    if isinstance(path, RemotePath) and isinstance(commit, str) and is_name(commit):
        unfinished = path / ".raypipe" / f"{commit}-{SPEC}"
        if unfinished.exists():
            return unfinished
    return path / SPEC


def parse_manifest(content: bytes) -> dict[str, Any]:
    """What a manifest says. Raises ValueError for what is none: rows are looked up in it without further checks."""
    manifest: Any = orjson.loads(content)
    if not isinstance(manifest, dict):
        raise ValueError("no manifest")
    known = cast("dict[str, Any]", manifest)
    parts = [known.get(name, {}) for name in ("leaves", "failures", "steps", "models")]
    entries = [*parts[0].values(), parts[1]] if all(isinstance(part, dict) for part in parts) else [None]
    if not all(isinstance(entry, dict) and isinstance(entry.get("rows", 0), int) for entry in entries):
        raise ValueError("no manifest")
    return known


def list_files(folder: RemotePath, entry: Mapping[str, Any]) -> list[RemotePath]:
    """The files of a leaf or of the failures, in order; of a folder that was copied there, all that there are."""
    place = folder / entry["path"]
    return [place / name for name in entry["files"]] if "files" in entry else list(place.glob("part-*.parquet"))


def list_remote_artifacts(folder: RemotePath, manifest: Mapping[str, Any]) -> Iterator[Artifact[RemotePath]]:
    """The artifacts of a run, by step and name. Raises InputError for what would lie outside of the run's folder."""
    listed = manifest.get(ARTIFACTS) or {}
    for named, path in sorted(cast("dict[str, Any]", listed).items() if isinstance(listed, dict) else ()):
        step, _, name = named.partition("/")
        is_inside = is_name(step) and is_name(name) and isinstance(path, str) and all(map(is_name, path.split("/")))
        if not is_inside:
            raise InputError(_OUTSIDE.format(folder, f"{named}: {path}"))
        yield Artifact(step, name, folder / path)


_OUTSIDE = "{} has the artifact {!r}, which no run writes: it leads out of its folder; remove it"


@dataclass(frozen=True)
class LocalCopy:
    """A committed run in a folder of this machine."""

    path: Path
    manifest: Mapping[str, Any]


@contextmanager
def local_copy(path: AnyPath, manifest: Mapping[str, Any]) -> Generator[LocalCopy]:
    """A committed run as a folder of this machine; one in a store is fetched into a folder that is not kept."""
    if isinstance(path, Path):
        yield LocalCopy(path, manifest)
        return
    with tempfile.TemporaryDirectory(prefix="raypipe-") as name:
        folder = Path(name)
        files = list(_files_to_fetch(path, manifest))
        list(map_concurrently(lambda pair: copy_file(pair[0], folder / pair[1]), files))
        (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
        yield LocalCopy(folder, manifest)


def _files_to_fetch(path: RemotePath, manifest: Mapping[str, Any]) -> Iterator[tuple[AnyPath, str]]:
    """Each file that counts, and its place in a folder of this machine."""
    for entry in [*manifest["leaves"].values(), manifest["failures"]]:
        for number, file in enumerate(list_files(path, entry)):
            yield file, f"{entry['path']}/part-{number:05d}.parquet"
    for artifact in list_remote_artifacts(path, manifest):
        for file in (*artifact.files, artifact.path / METADATA):
            below = file.path.removeprefix(f"{artifact.path.path}/")
            if not all(map(is_name, below.split("/"))):  # a store takes any name
                raise InputError(_OUTSIDE.format(path, below))
            yield file, f"{ARTIFACTS}/{artifact.step}/{artifact.name}/{below}"
    yield spec_path(path, manifest), SPEC
