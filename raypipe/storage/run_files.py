"""I know what a manifest lists of a run in an object store, and bring it to a folder of this machine.

I do not know how it came there.
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
from raypipe.storage.paths import AnyPath, RemotePath, download, map_concurrently


def list_files(folder: RemotePath, entry: Mapping[str, Any]) -> list[RemotePath]:
    """The files of a leaf or of the failures, in order; of a folder that was copied there, all that there are."""
    place = folder / entry["path"]
    return [place / name for name in entry["files"]] if "files" in entry else list(place.glob("part-*.parquet"))


def list_remote_artifacts(folder: RemotePath, manifest: Mapping[str, Any]) -> Iterator[Artifact[RemotePath]]:
    """The artifacts of a run, by step and name. Raises InputError for what would lie outside of the run's folder."""
    listed = manifest.get(ARTIFACTS) or {}
    for named, place in sorted(cast("dict[str, Any]", listed).items() if isinstance(listed, dict) else ()):
        step, _, name = named.partition("/")
        if not (is_name(step) and is_name(name) and isinstance(place, str) and _stays_inside(place)):
            raise _outside(folder, f"{named}: {place}")
        yield Artifact(step, name, folder / place)


def _stays_inside(path: str) -> bool:
    return all(map(is_name, path.split("/")))


def _outside(folder: RemotePath, named: str) -> InputError:
    return InputError(
        f"{folder} has the artifact {named!r}, which no run writes: it leads out of its folder; remove it"
    )


@dataclass(frozen=True)
class LocalCopy:
    """A committed run in a folder of this machine."""

    path: Path
    manifest: Mapping[str, Any]


@contextmanager
def local_copy(place: AnyPath, manifest: Mapping[str, Any]) -> Generator[LocalCopy]:
    """A committed run as a folder of this machine; one elsewhere is fetched into a folder that is not kept."""
    if isinstance(place, Path):
        yield LocalCopy(place, manifest)
        return
    with tempfile.TemporaryDirectory(prefix="raypipe-") as name:
        folder = Path(name)
        fetched = dict(_fetched(place, manifest))
        for _ in map_concurrently(lambda pair: download(pair[0], folder / pair[1]), list(fetched.items())):
            pass
        (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
        yield LocalCopy(folder, manifest)


def _fetched(place: RemotePath, manifest: Mapping[str, Any]) -> Iterator[tuple[RemotePath, str]]:
    """Each file that counts, and where it is in a folder of this machine."""
    for entry in [*manifest["leaves"].values(), manifest["failures"]]:
        for number, file in enumerate(list_files(place, entry)):
            yield file, f"{entry['path']}/part-{number:05d}.parquet"
    for one in list_remote_artifacts(place, manifest):
        for file in (*one.files, one.path / METADATA):
            below = file.path.removeprefix(f"{one.path.path}/")
            if not _stays_inside(below):  # a store takes any name
                raise _outside(place, below)
            yield file, f"{ARTIFACTS}/{one.step}/{one.name}/{below}"
    yield place / "pipeline.yaml", "pipeline.yaml"
