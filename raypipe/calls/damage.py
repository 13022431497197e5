"""Says what of a call log cannot be read, and keeps it aside in the log's folder `damaged/`, which nobody reads again.

Knows nothing of how a file is read.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from raypipe.storage.paths import AnyPath, RemotePath, copy_file, write_atomically

DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Damage:
    """One file of a call log of which something cannot be read."""

    file: str
    """Its name in the folder of the log."""
    problem: str
    calls: int | None = None
    """How many calls are lost with it, at least; `None`: not known."""
    kept: str = ""
    """Where the file is kept, from the folder of the log; empty where it stands as it did, for what can be read."""

    def describe(self) -> str:
        """One sentence."""
        count = "an unknown number of calls" if self.calls is None else f"{self.calls:,} call{'s' * (self.calls != 1)}"
        where = f"; it is kept in {self.kept}" if self.kept else ""
        return f"the file {self.file} of the call log {self.problem}: {count} lost, to be asked again{where}"


def tell(damage: Damage) -> Damage:
    """Say it to the user; gives it back."""
    logging.getLogger("raypipe").warning("%s", damage.describe())
    return damage


def set_aside(path: AnyPath, damage: Damage) -> Damage:
    """Move a file of a log, of which no more can be read than was, to the damaged ones. Raises OSError."""
    name = f"{DAMAGED}/{path.name}"
    if isinstance(path, RemotePath):
        copy_file(path, path.parent / name)
        path.unlink(missing_ok=True)
    else:
        folder = path.with_name(DAMAGED)
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError):  # another run over the same log was faster
            path.rename(folder / path.name)
    return tell(replace(damage, kept=name))


def note(calls: AnyPath, owner: str, damage: Damage) -> None:
    """Say what a worker of `owner` found, here and to the process that began the run, which takes the note."""
    tell(damage)
    folder = calls / DAMAGED
    with suppress(OSError):  # the run does not depend on it
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / f"note-{owner}-{uuid4().hex}.json", orjson.dumps(asdict(damage)))


def take_notes(calls: AnyPath, owner: str) -> list[Damage]:
    """What workers of `owner` have noted, once for each file; the notes are gone then. Raises OSError."""
    found: dict[str, Damage] = {}
    folder = calls / DAMAGED
    for path in sorted(folder.glob(f"note-{owner}-*.json")):
        with suppress(ValueError, TypeError):
            damage = Damage(**orjson.loads(path.read_bytes()))
            before = found.get(damage.file)
            # Workers that met the same row groups noted the same calls.
            found[damage.file] = damage if before is None else replace(damage, calls=_most(before.calls, damage.calls))
        path.unlink(missing_ok=True)
    if found and isinstance(folder, Path):
        with suppress(OSError):
            folder.rmdir()
    return list(found.values())


def _most(one: int | None, other: int | None) -> int | None:
    return one if other is None else other if one is None else max(one, other)


def as_manifest(damaged: Sequence[Damage]) -> dict[str, Any]:
    """As it stands in the manifest of a run."""
    return {"damaged": [asdict(damage) for damage in damaged]}
