"""Finds calls in a call log: an index over all keys, and a reader that keeps what it read last.

An index has 16 bytes of key and 6 bytes of place for each call. That over many calls is kept in a file, which a later
run and all workers of a machine map. Knows nothing of what a key stands for.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from raypipe.calls.compacted_file import CompactedFile, compacted_files, open_compacted
from raypipe.calls.compaction import rewrite
from raypipe.calls.damage import Damage, note, set_aside, tell
from raypipe.calls.index_part import IndexPart, joined_part, kept_parts, merged_part, shift_for, sorted_part
from raypipe.calls.remote import folder_here, segments
from raypipe.calls.segment_files import SEGMENT
from raypipe.calls.segments import SegmentReader, completion_of, parse_fields, read_frame
from raypipe.concurrency.interruption import Progress
from raypipe.contracts.llm import REFUSALS, Completion
from raypipe.storage.paths import AnyPath, RemotePath, parse_path

_CACHED_GROUPS = 16
_MOST_PARTS, _GROWTH = 4, 4
"""An index has few parts: a new one takes in those that are no more than so many times as large."""
_KEPT_CALLS = 1 << 16
"""The index over fewer calls is made as fast as it is found."""
_HELD_CALLS = 1 << 23
"""Calls whose index is held in memory as it is made."""
_COLUMNS = ("text", "finish_reason", "input_tokens", "output_tokens", "model", "key")


@dataclass(frozen=True)
class CallIndex:
    """Where each known call stands: sorted parts, and all files in the order in which they were logged."""

    files: tuple[str, ...] = ()
    """Their paths."""
    parts: tuple[IndexPart, ...] = ()
    damaged: tuple[Damage, ...] = ()
    """What could not be read as it was made."""

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    def __reduce__(self) -> Any:
        """Parts that are kept beside the files of the log travel as their names: who can read these can map them."""
        kept = [part.path for part in self.parts if part.path is not None]
        if self.files and all(str(path.parent) == self.files[0].rpartition("/")[0] for path in kept):
            return _reopen, (self.files, [part for part in self.parts if part.path is None], kept)
        return CallIndex, (self.files, self.parts, self.damaged)


def _reopen(files: tuple[str, ...], parts: list[IndexPart], kept: list[Path]) -> CallIndex:
    """The index in another process; a part that another run has replaced since is made again."""
    names = {Path(file).name: file for file in files}
    opened = kept_parts(kept[0].parent, [*names], is_checked=False) if kept else []
    there = {name for part in (*parts, *opened) for name in part.files}
    missing = [part for name, file in names.items() if name not in there if (part := _part_of(parse_path(file))[0])]
    return CallIndex(files, (*parts, *opened, *missing))


def load_index(folder: AnyPath, known: bool = True, is_kept: bool = False) -> CallIndex:
    """The index over all compacted calls in `folder`; an empty one unless `known`.

    `is_kept`: what is damaged is kept aside, and the index over many calls in a file; otherwise nothing is changed.
    Raises OSError; OutputError for a file of an unknown version.
    """
    if not known:
        return CallIndex()
    paths = {path.name: path for path in compacted_files(folder)}
    here = folder_here(folder)
    parts = kept_parts(here, [*paths], removes_damaged=is_kept)
    there = {name for part in parts for name in part.files}
    made: list[IndexPart] = []
    damaged: list[Damage] = []
    new, progress = [name for name in paths if name not in there], Progress()
    for number, name in enumerate(new):
        progress.show(partial("making the index of the call log: {} of {} files".format, number, len(new)))
        part, damage = _part_of(paths[name])
        if damage is not None and is_kept:
            found = [set_aside(paths[name], damage)] if part is None else rewrite(folder, [paths[name]])
            again = load_index(folder, is_kept=True)
            return CallIndex(again.files, again.parts, (*damaged, *found, *again.damaged))
        if damage is not None:
            damaged.append(tell(damage))
        if part is not None:
            made.append(part)
        if is_kept and sum(map(len, made)) > _HELD_CALLS:
            made = [_kept(here, [*paths], made)]
    if is_kept:
        parts, made = _grown(parts, made)
    if made:
        is_large = is_kept and sum(map(len, made)) >= _KEPT_CALLS
        parts = [*parts, _kept(here, [*paths], made) if is_large else _joined([*paths], made)]
    return CallIndex(tuple(map(str, paths.values())), tuple(parts), tuple(damaged))


def _part_of(path: AnyPath) -> tuple[IndexPart | None, Damage | None]:
    """The index over one file, or what is damaged."""
    file = open_compacted(path)
    if isinstance(file, Damage):
        return None, file
    keys, rows, lost = file.read_keys()
    part = sorted_part([path.name], keys, rows, np.zeros(len(rows), np.uint16))
    return part, Damage(path.name, "has row groups whose keys are damaged", lost) if lost else None


def _grown(parts: list[IndexPart], made: list[IndexPart]) -> tuple[list[IndexPart], list[IndexPart]]:
    """The parts that stay, and those that become one: each call is sorted anew only some times, however many runs."""
    new = sum(map(len, made))
    if new < _KEPT_CALLS and len(parts) < _MOST_PARTS:
        return parts, made
    stay = list(parts)
    while stay and (len(stay[-1]) <= _GROWTH * new or len(stay) >= _MOST_PARTS):
        made = [stay.pop(), *made]
        new += len(made[0])
    return stay, made


def _joined(names: list[str], parts: list[IndexPart]) -> IndexPart:
    there = {name for part in parts for name in part.files}
    return parts[0] if len(parts) == 1 else joined_part([name for name in names if name in there], parts)


def _kept(folder: Path, names: list[str], parts: list[IndexPart]) -> IndexPart:
    """One part of several, in a file; in memory, where the disk has no room."""
    there = {name for part in parts for name in part.files}
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        made = merged_part(folder, [name for name in names if name in there], parts)
        if made is not None:
            return made
    return _joined(names, parts)


def index_with_segments(known: CallIndex, folder: AnyPath, owner: str) -> CallIndex:
    """`known` and all that the workers of `owner` (`*`: of all) have written since, whether they still live or not."""
    keys: list[bytes] = []
    numbers: list[int] = []
    offsets: list[int] = []
    paths = segments(folder, owner)
    for number, path in enumerate(paths):
        with suppress(FileNotFoundError), path.open("rb") as file:
            reader = SegmentReader(file, str(path))
            while block := reader.read():
                keys.append(block.keys())
                offsets += [block.base + place for place in block.places]
                numbers += [number] * len(block.places)
    if not keys:
        return known
    of_file = np.array(numbers, np.uint32)
    part = sorted_part([path.name for path in paths], b"".join(keys), np.array(offsets, np.uint64), of_file)
    return CallIndex((*known.files, *map(str, paths)), (*known.parts, part), known.damaged)


class CallReader:
    """Finds completions through an index; keeps the row groups read last. `found` is told once what is damaged."""

    def __init__(self, index: CallIndex, found: Callable[[Damage], object] = tell) -> None:
        self._paths, self._found = index.files, found
        rank = {path.rpartition("/")[2]: number for number, path in enumerate(index.files)}
        self._parts = [_PartView(part, [rank[name] for name in part.files]) for part in index.parts]
        self._several = frozenset(index.parts[0].repeated.tolist()) if len(index.parts) == 1 else None
        """Keys (their first halves) that may have been logged more than once; `None`: not known."""
        self._files: dict[int, CompactedFile | None] = {}
        self._groups: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        self._near: dict[bytes, tuple[Any, ...]] = {}
        """The rows of the groups at hand, by key: calls that were logged together are asked for together."""

    def find(self, key: bytes) -> Completion | None:
        """The completion logged last under `key`, if there is one. Raises FileNotFoundError when its file is gone."""
        near = self._near.get(key)
        if near is not None:
            return completion_of(*near[:5])
        high, low = int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big")
        last = row = -1
        for part in self._parts:
            bucket = high >> part.shift
            at = bisect.bisect_right(part.high, high, part.starts[bucket], part.starts[bucket + 1]) - 1
            while at >= 0 and part.high[at] == high:
                if part.low[at] == low:
                    number = part.ranks[part.file[at]]
                    if number > last:
                        last, row = number, part.row[at]
                    break
                at -= 1
        return self._read(last, row, key) if last >= 0 else None

    def _read(self, number: int, row: int, key: bytes) -> Completion | None:
        path = self._paths[number]
        if path.endswith(SEGMENT):
            with _open(path) as file:
                frame = read_frame(file, row)
            fields = parse_fields(frame[1]) if frame is not None and frame[0] == key else None
            return completion_of(*fields[4:9]) if fields is not None else None
        if number not in self._files:
            opened = open_compacted(path)
            if isinstance(opened, Damage):
                self._found(opened)
            self._files[number] = opened if isinstance(opened, CompactedFile) else None
        file = self._files[number]
        if file is None:
            return None
        group, offset = file.place(row)
        rows = self._group(file, number, group)
        # An index that is damaged leads to a call of another key.
        return completion_of(*rows[offset][:5]) if offset < len(rows) and rows[offset][-1] == key else None

    def _group(self, file: CompactedFile, number: int, group: int) -> list[tuple[Any, ...]]:
        """The rows of a group; none where it is damaged."""
        place = (number, group)
        rows = self._groups.pop(place, None)
        if rows is None:
            columns = file.read(group, _COLUMNS)
            if columns is None:
                lost = int(file.starts[group + 1] - file.starts[group])
                self._found(Damage(file.path.name, "has row groups that are damaged", lost))
            rows = list(zip(*(column.to_pylist() for column in columns or ()), strict=True))
            if self._several is not None:
                several = self._several
                self._near.update((row[-1], row) for row in rows if int.from_bytes(row[-1][:8]) not in several)
        self._groups[place] = rows
        if len(self._groups) > _CACHED_GROUPS:
            for row in self._groups.pop(next(iter(self._groups))):
                self._near.pop(row[-1], None)
        return rows


class _PartView:
    """A part as it is searched. An item of a memoryview costs a third of an item of the array."""

    __slots__ = ("file", "high", "low", "ranks", "row", "shift", "starts")

    def __init__(self, part: IndexPart, ranks: list[int]) -> None:
        """`ranks`: by number of a file in the part, its place among all files of the log."""
        self.ranks, self.shift = ranks, shift_for(len(part))
        self.high, self.low, self.file, self.row, self.starts = (
            memoryview(array)  # pyright: ignore[reportArgumentType]
            for array in (part.high, part.low, part.file, part.row, part.starts)
        )


class KnownCalls:
    """The completions that a worker of `owner` need not ask for: those in the call log when its run began, and those of
    this run, once rows are redone.

    `forgotten`: steps for which calls of earlier runs are not reused; `ask_again`: nor are refusals of any step.
    """

    def __init__(
        self, index: CallIndex, folder: AnyPath, owner: str, forgotten: frozenset[str], *, ask_again: bool = False
    ) -> None:
        self._index, self._folder, self._owner, self._forgotten = index, folder, owner, forgotten
        self._found = partial(note, folder, owner)
        self._all = CallReader(index, self._found)
        self._of_this_run: CallReader | None = None
        self._asks_again = ask_again
        self.epoch = 0
        """How many workers had been lost when the log was last read."""

    def find(self, step: str, key: bytes) -> Completion | None:
        """The completion of a call of a step, if it is known."""
        reader = self._of_this_run if step in self._forgotten else self._all
        if reader is None:
            return None
        try:
            found = reader.find(key)
        except FileNotFoundError:  # another run over the same log has merged files, or set one aside
            self._index = load_index(self._folder, known=bool(self._index.files))
            self._read_anew()
            reader = self._of_this_run if step in self._forgotten else self._all
            found = reader.find(key) if reader is not None else None
        if self._asks_again and found is not None and found.finish_reason in REFUSALS:
            return self._of_this_run.find(key) if self._of_this_run is not None else None
        return found

    def look_back(self, epoch: int) -> None:
        """Rows are redone in this epoch: read what all workers of this run, lost ones too, have logged so far."""
        if epoch > self.epoch:
            self.epoch = epoch
            self._read_anew()

    def _read_anew(self) -> None:
        self._all = CallReader(index_with_segments(self._index, self._folder, self._owner), self._found)
        if self._forgotten or self._asks_again:
            self._of_this_run = CallReader(index_with_segments(CallIndex(), self._folder, self._owner), self._found)


def _open(path: str) -> BinaryIO:
    return BytesIO(_fetch(path)) if isinstance(parse_path(path), RemotePath) else open(path, "rb")


@lru_cache(_CACHED_GROUPS)
def _fetch(path: str) -> bytes:
    """A piece of a log in a store; its frames are asked for together."""
    return parse_path(path).read_bytes()
