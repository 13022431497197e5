"""Turns the segments of ended writers into Parquet files, and many small Parquet files into one.

A file has its name once it is whole and on the disk, and says what it was made from: a compaction that is killed at any
moment leaves the calls where they were, or once in the new file, and the next one finishes it. What is damaged is kept
aside. Knows nothing of what a key stands for, nor of who holds the run folder.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import BinaryIO, TypeVar

import pyarrow as pa

from raypipe.calls.compacted import SCHEMA, CompactedWriter, Source, as_table
from raypipe.calls.compacted_file import CompactedFile, compacted_files, open_compacted, rows_of
from raypipe.calls.damage import Damage, set_aside, take_notes
from raypipe.calls.index_part import remove_unused
from raypipe.calls.remote import folder_here, send_left
from raypipe.calls.segment_files import (
    SEGMENT,
    WAIT_S,
    in_order,
    is_used_by,
    is_used_by_others,
    next_number,
    number_of,
    open_locked,
    owner_of,
    remove_leftovers,
    remove_room,
)
from raypipe.calls.segments import SegmentReader
from raypipe.concurrency.interruption import Progress
from raypipe.storage.paths import AnyPath, RemotePath, copy_file, map_concurrently, remove_files

P = TypeVar("P", Path, RemotePath)
_MOST_FILES, _MERGED_FILES = 64, 32
"""A log has no more compacted files for long; so many that stand beside each other become one then."""
_FILE_BYTES = 2 << 30
"""Of segments that become one file."""


def compact(calls: AnyPath, owner: str, wait_s: float = WAIT_S) -> list[Damage]:
    """Turn what ended writers wrote into Parquet: of all whose run has ended here, of `owner`'s in a store.

    Writers of `owner` on this machine that still live are waited for. Gives what could not be read, also what workers
    of `owner` met since. Raises OSError, OutputError when a writer does not end in time.
    """
    damaged = _finish_killed(calls)
    if isinstance(calls, Path):
        remove_leftovers(calls)
        with ExitStack() as stack:
            files = _locked(calls, owner, wait_s, stack)
            for some in _parts([*files]):
                damaged += _compact(calls, some, (files[path] for path in some))
    else:
        send_left(calls, owner, is_over=True, wait_s=wait_s)
        for some in _parts(_pieces(calls, owner)):
            damaged += _compact(calls, some, map(BytesIO, map_concurrently(RemotePath.read_bytes, some)))
    noted = {damage.file: damage for damage in take_notes(calls, owner)}
    paths = compacted_files(calls)
    for path in [path for path in paths if path.name in noted]:
        noted |= {damage.file: damage for damage in rewrite(calls, [path])}
    if len(paths) > _MOST_FILES:
        damaged += rewrite(calls, _smallest(compacted_files(calls)))
    here = folder_here(calls)
    if not is_used_by_others(here, owner):
        remove_unused(here, [path.name for path in compacted_files(calls)])
    return [*damaged, *noted.values()]


def _finish_killed(calls: AnyPath) -> list[Damage]:
    """Remove what is also in a file that was made of it: a compaction was killed before it did."""
    damaged: list[Damage] = []
    files = compacted_files(calls)
    counted = Counter(map(number_of, files))
    segments = [*calls.glob(f"segment-*{SEGMENT}")]
    since = min(map(number_of, segments), default=1 << 70)
    for path in files:
        number = number_of(path)
        # What a file was made of has no larger number than it has, and of one, the same.
        if counted[number] == 1 and number < since:
            continue
        file = open_compacted(path)
        if isinstance(file, CompactedFile):
            there = [one for one in (*segments, *files) if one.name in file.sources and one != path]
            damaged += _put_away(there, file.sources)
    return damaged


def _locked(folder: Path, owner: str, wait_s: float, stack: ExitStack) -> dict[Path, BinaryIO]:
    """Segments that may be compacted, open and locked, the latest last: those of `owner`, and of runs that ended."""
    deadline = time.monotonic() + wait_s
    paths = in_order(folder.glob(f"segment-*{SEGMENT}"))
    ended = {one for one in {owner_of(path) for path in paths} - {owner} if not is_used_by(folder, one)}
    found: dict[Path, BinaryIO] = {}
    for path in paths:
        if owner_of(path) in {owner, *ended}:
            file = open_locked(path, deadline if owner_of(path) == owner else 0.0)
            if file is not None:
                found[path] = stack.enter_context(file)
    return found


def _pieces(calls: RemotePath, owner: str) -> list[RemotePath]:
    return in_order(calls.glob(f"segment-{owner}-*{SEGMENT}"))


def _parts(paths: Sequence[P]) -> Iterator[list[P]]:
    """Segments that become one file each time: of one owner, and not too many bytes."""
    by_owner: dict[str, list[P]] = {}
    for path in paths:
        by_owner.setdefault(owner_of(path), []).append(path)
    for own in by_owner.values():
        part: list[P] = []
        size = 0
        for path in own:
            here = path.stat().st_size if isinstance(path, Path) else 0
            if part and size + here > _FILE_BYTES:
                yield part
                part, size = [], 0
            part.append(path)
            size += here
        yield part


def _compact(calls: AnyPath, paths: Sequence[AnyPath], files: Iterable[BinaryIO]) -> list[Damage]:
    """Make one file of segments, and remove them; the damaged ones, which it gives, are kept aside."""
    sources: dict[str, Source] = {}
    progress = Progress()
    with _writing(calls) as writer:
        for path, file in zip(paths, files, strict=True):
            reader, unplaced = SegmentReader(file, str(path)), 0
            while block := reader.read():
                table = as_table(block)
                unplaced += len(block.places) - table.num_rows
                writer.write(table)
                progress.show(lambda: f"compacting the call log: {writer.rows:,} calls so far")
            problem = f"has {reader.lost_bytes:,} bytes that cannot be read" if reader.lost_bytes else ""
            problem = problem or ("has frames that are none of a call" if unplaced else "")
            sources[path.name] = (problem, reader.lost_calls + unplaced)
        _finish(writer, calls, number_of(paths[-1]) or next_number(calls), sources)
    return _put_away(paths, sources)


@contextmanager
def _writing(calls: AnyPath) -> Generator[CompactedWriter]:
    """A writer of one compacted file, in the folder of the log or beside it."""
    with nullcontext(calls) if isinstance(calls, Path) else TemporaryDirectory(prefix="raypipe-") as folder:
        writer = CompactedWriter(Path(folder))
        try:
            yield writer
        finally:
            writer.close()


def _finish(writer: CompactedWriter, calls: AnyPath, number: int, sources: Mapping[str, Source]) -> None:
    made = writer.finish(number, sources)
    if made is not None and isinstance(calls, RemotePath):
        copy_file(made, calls / made.name)


def _put_away(paths: Sequence[AnyPath], sources: Mapping[str, Source]) -> list[Damage]:
    """Remove files whose calls stand in another; those that were damaged, which it gives, are kept aside."""
    whole = [path for path in paths if not sources[path.name][0]]
    remove_files(path for path in whole if isinstance(path, RemotePath))
    for path in whole:
        if isinstance(path, Path):
            path.unlink(missing_ok=True)
    damaged = [path for path in paths if path not in whole]
    found = [set_aside(path, Damage(path.name, *sources[path.name])) for path in damaged]
    for path in paths:
        if isinstance(path, Path) and path.suffix == SEGMENT:
            remove_room(path)
    return found


def _smallest(paths: Sequence[AnyPath]) -> Sequence[AnyPath]:
    """The files beside each other, in their order, that are the smallest together: equal keys keep their order."""
    rows = [rows_of(path) for path in paths]
    count = max(_MERGED_FILES, len(paths) - _MERGED_FILES)
    start = min(range(len(paths) - count + 1), key=lambda start: sum(rows[start : start + count]))
    return paths[start : start + count]


def rewrite(calls: AnyPath, paths: Sequence[AnyPath]) -> list[Damage]:
    """Make one file of several, with all that can be read; the damaged ones, which it gives, are kept aside."""
    sources: dict[str, Source] = {}
    left = {path.name for path in calls.glob(f"segment-*{SEGMENT}")}
    progress = Progress()
    with _writing(calls) as writer:
        for path in paths:
            file = open_compacted(path)
            if isinstance(file, Damage):
                sources[path.name] = (file.problem, file.calls)
                continue
            sources |= {name: source for name, source in file.sources.items() if name in left}
            lost = 0
            for group in file.groups:
                progress.show(lambda: f"merging files of the call log: {writer.rows:,} calls so far")
                columns = file.read(group, SCHEMA.names)
                if columns is None:
                    lost += int(file.starts[group + 1] - file.starts[group])
                else:
                    writer.write(pa.Table.from_arrays(columns, schema=SCHEMA))
            sources[path.name] = ("has row groups that are damaged" if lost else "", lost)
        _finish(writer, calls, number_of(paths[-1]), sources)
    return _put_away(paths, sources)
