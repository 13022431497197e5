"""I know what a manifest lists of a run in an object store, and bring it to a folder of this machine.

I do not know how it came there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from raypipe.artifacts import ARTIFACTS, METADATA, Artifact
from raypipe.places import Place, Remote, download, each


def files_of(folder: Remote, entry: Mapping[str, Any]) -> list[Remote]:
    """The files of a leaf or of the failures, in order; of a folder that was copied there, all that there are."""
    place = folder / entry["path"]
    return [place / name for name in entry["files"]] if "files" in entry else list(place.glob("part-*.parquet"))


def artifacts_of(folder: Remote, manifest: Mapping[str, Any]) -> Iterator[Artifact[Remote]]:
    """The artifacts of a run, by step and name."""
    for named, place in sorted(manifest.get(ARTIFACTS, {}).items()):
        step, name = named.split("/")
        yield Artifact(step, name, folder / place)


@dataclass(frozen=True)
class Here:
    """A committed run in a folder of this machine."""

    path: Path
    manifest: Mapping[str, Any]


@contextmanager
def here(place: Place, manifest: Mapping[str, Any]) -> Generator[Here]:
    """A committed run as a folder of this machine; one elsewhere is fetched into a folder that is not kept."""
    if isinstance(place, Path):
        yield Here(place, manifest)
        return
    with tempfile.TemporaryDirectory(prefix="raypipe-") as name:
        folder = Path(name)
        fetched = dict(_fetched(place, manifest))
        for _ in each(lambda pair: download(pair[0], folder / pair[1]), list(fetched.items())):
            pass
        (folder / "manifest.json").write_bytes(orjson.dumps(manifest))
        yield Here(folder, manifest)


def _fetched(place: Remote, manifest: Mapping[str, Any]) -> Iterator[tuple[Remote, str]]:
    """Each file that counts, and where it is in a folder of this machine."""
    for entry in [*manifest["leaves"].values(), manifest["failures"]]:
        for number, file in enumerate(files_of(place, entry)):
            yield file, f"{entry['path']}/part-{number:05d}.parquet"
    for one in artifacts_of(place, manifest):
        for file in (*one.files, one.path / METADATA):
            yield file, f"{ARTIFACTS}/{one.step}/{one.name}/{file.relative_to(one.path)}"
    yield place / "pipeline.yaml", "pipeline.yaml"
