"""I bring the rows of a family together and say when its last one is there.

A family is all that became of one row in a scatter (or of one source row). Its count of rows still
on their way goes up with every row made and down with every row that ended or arrived; at zero it
is complete. Nothing waits for any other family.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raypipe.contracts.step import Aggregate
from raypipe.errors import InputError
from raypipe.execution.conductor.compound_rows import lineages
from raypipe.graph.branching import Branch, Meet
from raypipe.graph.callback import Collected
from raypipe.graph.repeat import Until
from raypipe.plan.plan import PlannedStep
from raypipe.row import ANCESTORS, BATCH, LINEAGE, MEMBERS, PATH, ROW_ID
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import MOST_VALUE_BYTES, READ_BYTES
from raypipe.values.selection import size_bytes, take_rows

Place = tuple[pa.Table, int]
"""A row: its table, and its index there."""


@dataclass
class _Family:
    parent: Place
    batch: int
    on_the_way: int = 0
    members: list[Place] = field(default_factory=list["Place"])
    branches: dict[str, Place] = field(default_factory=dict[str, "Place"])
    """Of a meeting: the row by the step it came from."""
    is_spoiled: bool = False
    """A row of it was left unfinished, so it never becomes one."""
    members_bytes: float = 0.0
    accepted: int = 0
    candidates: int = 0
    """Of a row that is repeated: rows that came to the end, and rows made so far."""


@dataclass(frozen=True)
class OpenFamilies:
    """Families that wait for rows, taken out of a conductor's memory."""

    keys: list[bytes]
    parents: pa.Table
    states: list[tuple[int, bool, int, int]]
    """Of each: its tokens, whether it is spoiled, rows accepted and candidates made."""
    members: pa.Table | None
    member_of: list[int]
    """For each member, the number of its family."""
    branches: pa.Table | None
    branch_of: list[tuple[str, int]]


def numbered(rows: pa.Table, batch: int) -> pa.Table:
    """The rows as those of a batch."""
    column = pa.array(np.full(rows.num_rows, batch, np.int32))
    return rows.set_column(rows.column_names.index(BATCH), BATCH, column)


def families_of(planned: PlannedStep) -> Families:
    """The families of an aggregate, the meetings of branches, or the rows that are repeated."""
    if isinstance(planned.step, Until):
        return Repeated(planned, planned.step)
    return Meetings(planned) if isinstance(planned.step, Meet) else Families(planned)


class Families:
    """The open families of one aggregate.

    Each has a token for everything that may still bring it a member; at none it is complete.
    """

    def __init__(self, planned: PlannedStep) -> None:
        assert planned.gather is not None
        self.name = planned.name
        self.gather = planned.gather
        self._step = planned.step
        self._open: dict[bytes, _Family] = {}
        self._complete: list[_Family] = []
        self._spoiled: list[_Family] = []
        self._refused: list[tuple[pa.Table, str]] = []

    def opened(self, parents: pa.Table) -> None:
        """A family for each row of `parents`, with one token."""
        ids, batches = parents.column(ROW_ID).to_pylist(), parents.column(BATCH).to_pylist()
        for index, (row_id, batch) in enumerate(zip(ids, batches, strict=True)):
            self._open[row_id] = _Family((parents, index), batch, on_the_way=1)

    def moved(self, rows: pa.Table, change: int) -> None:
        """The family of each row gets so many tokens more (or fewer)."""
        for key in self._keys(rows):
            self._add(key, change)

    def arrived(self, rows: pa.Table, upstream: str) -> None:
        """Members that came from a step; each hands in a token."""
        keys = self._keys(rows)
        kept = self._collected(rows, self._open[keys[0]].parent[0])
        each = size_bytes(kept) / rows.num_rows
        for index, key in enumerate(keys):
            family = self._open[key]
            family.members.append((kept, index))
            family.members_bytes += each
            self._add(key, -1)

    def _collected(self, rows: pa.Table, parents: pa.Table) -> pa.Table:
        """Members without what they have from their parents and nobody collects: each would hold it."""
        assert isinstance(self._step, Aggregate)
        if self._step.as_rows is not None:
            return rows
        columns = self._step.columns or self.gather.collects
        theirs = {*parents.column_names} - {*self.gather.new}
        known = {*columns} if columns is not None else {*rows.column_names} - theirs
        return rows.select([name for name in rows.column_names if name in LINEAGE or name in known])

    def spoil(self, rows: pa.Table) -> None:
        """Members that will not arrive in this run, and their families with them."""
        for key in self._keys(rows):
            self._open[key].is_spoiled = True

    def take_spoiled(self) -> pa.Table | None:
        """The parents of families that ended incomplete since the last time."""
        spoiled, self._spoiled = self._spoiled, []
        return _taken([family.parent for family in spoiled]) if spoiled else None

    def leave(self, batch: int) -> OpenFamilies | None:
        """Take a batch's families away as they are, if it has any."""
        keys = [key for key, family in self._open.items() if family.batch == batch]
        if not keys:
            return None
        left = [self._open.pop(key) for key in keys]
        members = [(index, place) for index, family in enumerate(left) for place in family.members]
        branches = [
            (name, index, place) for index, family in enumerate(left) for name, place in family.branches.items()
        ]
        return OpenFamilies(
            keys,
            _taken([family.parent for family in left]),
            [(family.on_the_way, family.is_spoiled, family.accepted, family.candidates) for family in left],
            _taken([place for _, place in members]) if members else None,
            [index for index, _ in members],
            _taken([place for *_, place in branches]) if branches else None,
            [(name, index) for name, index, _ in branches],
        )

    def take_in(self, left: OpenFamilies, batch: int) -> None:
        """Go on with families that were taken away."""
        parents = numbered(left.parents, batch)
        families = [
            _Family((parents, at), batch, tokens, is_spoiled=is_spoiled, accepted=accepted, candidates=candidates)
            for at, (tokens, is_spoiled, accepted, candidates) in enumerate(left.states)
        ]
        if left.members is not None:
            members = numbered(left.members, batch)
            for at, index in enumerate(left.member_of):
                families[index].members.append((members, at))
        if left.branches is not None:
            branches = numbered(left.branches, batch)
            for at, (name, index) in enumerate(left.branch_of):
                families[index].branches[name] = (branches, at)
        self._open.update(zip(left.keys, families, strict=True))

    def _keys(self, rows: pa.Table) -> list[bytes]:
        level = self.gather.level
        ids, ancestors = rows.column(ROW_ID).to_pylist(), rows.column(ANCESTORS).to_pylist()
        return [above[level] if len(above) > level else row_id for row_id, above in zip(ids, ancestors, strict=True)]

    def _add(self, key: bytes, change: int) -> None:
        family = self._open[key]
        family.on_the_way += change
        if family.on_the_way == 0:
            (self._spoiled if family.is_spoiled else self._complete).append(self._open.pop(key))

    def take_complete(self) -> tuple[pa.Table, pa.Table] | None:
        """The parents of families completed since the last time, and the rows that they become."""
        if not self._complete:
            return None
        sizes = np.cumsum([family.members_bytes for family in self._complete])
        count = max(1, int(np.searchsorted(sizes, READ_BYTES, side="right")))
        complete, self._complete = self._complete[:count], self._complete[count:]
        return _taken([family.parent for family in complete]), self._rows(complete)

    def take_refused(self) -> list[tuple[pa.Table, str]]:
        """The parents (tables of one) of families that are too large to be one row, and what is said of each."""
        refused, self._refused = self._refused, []
        return refused

    def _rows(self, complete: Sequence[_Family]) -> pa.Table:
        """One row for each family: the parent's, with lists."""
        assert isinstance(self._step, Aggregate)
        parents = _taken([family.parent for family in complete])
        members = [place for family in complete for place in family.members]
        sizes = [len(family.members) for family in complete]
        columns = self._step.columns or self.gather.collects
        rows = _ordered(members, sizes) if members else None
        if rows is not None and (problem := too_large(rows)):
            self._refused.append((parents, problem))
            return parents.slice(0, 0)
        if columns is None:
            kept = set(parents.column_names) - set(self.gather.new)
            columns = [name for name in rows.column_names if name not in kept] if rows is not None else []
        return _with_lists(parents, rows, sizes, self._step, columns)


class Meetings(Families):
    """The rows whose branches have not all come to one step yet."""

    def arrived(self, rows: pa.Table, upstream: str) -> None:
        each = size_bytes(rows) / max(1, rows.num_rows)
        for index, key in enumerate(self._keys(rows)):
            family = self._open[key]
            family.branches[upstream] = (rows, index)
            family.members_bytes += each
            self._add(key, -1)

    def _rows(self, complete: Sequence[_Family]) -> pa.Table:
        """One row for each that has a branch left."""
        assert isinstance(self._step, Meet)
        met = [family for family in complete if family.branches]
        if not met:
            return _taken([family.parent for family in complete]).slice(0, 0)
        branches: list[Branch] = []
        for upstream, changes in self.gather.branches.items():
            places = [family.branches[upstream] for family in met if upstream in family.branches]
            is_there = np.array([upstream in family.branches for family in met])
            if not places:
                continue
            order = np.where(is_there, np.cumsum(is_there) - 1, -1)
            rows = _taken(places)
            columns = [name for name in rows.column_names if name not in LINEAGE]
            branches.append(Branch(take_rows(rows.select(columns), order), pa.array(is_there), changes))
        parents = _taken([family.parent for family in met])
        made = self._step.meet(parents, branches)
        for name in self.gather.collects or ():
            if name not in made.column_names:
                made = made.append_column(name, pa.nulls(made.num_rows))
        return made


class Repeated(Families):
    """The rows of which candidates are made until enough are accepted."""

    def __init__(self, planned: PlannedStep, until: Until) -> None:
        super().__init__(planned)
        self._until = until
        self._changed: dict[bytes, None] = {}
        self._short: list[tuple[pa.Table, str]] = []

    def arrived(self, rows: pa.Table, upstream: str) -> None:
        """Accepted; they go on at once."""
        for key in self._keys(rows):
            self._open[key].accepted += 1
            self._add(key, -1)

    def _add(self, key: bytes, change: int) -> None:
        self._open[key].on_the_way += change
        self._changed[key] = None

    def take_wanted(self) -> tuple[pa.Table, np.ndarray] | None:
        """The rows, each once for every candidate that is to be made of it now, and the candidates' numbers.

        What needs no more is complete.
        """
        changed, self._changed = self._changed, {}
        places: list[Place] = []
        numbers: list[int] = []
        for key in changed:
            family = self._open.get(key)
            if family is None:
                continue
            wanted = 0 if family.is_spoiled else self._wanted(family)
            places += [family.parent] * wanted
            numbers += range(family.candidates, family.candidates + wanted)
            family.candidates += wanted
            if not wanted and family.on_the_way == 0:
                self._end(self._open.pop(key))
        return (_taken(places), np.array(numbers)) if places else None

    def take_in(self, left: OpenFamilies, batch: int) -> None:
        super().take_in(left, batch)
        self._changed.update(dict.fromkeys(left.keys))

    def _wanted(self, family: _Family) -> int:
        """Only so many as would all be needed if all were accepted."""
        missing = self._until.n_accepted - family.accepted - family.on_the_way
        return max(0, min(missing, self._until.max_candidates - family.candidates))

    def _end(self, family: _Family) -> None:
        if family.is_spoiled:
            self._spoiled.append(family)
            return
        self._complete.append(family)
        if family.accepted < self._until.n_accepted:
            self._short.append((_taken([family.parent]), self._until.missing(family.accepted)))

    def take_short(self) -> list[tuple[pa.Table, str]]:
        """The rows (tables of one) for which the candidates were not enough, and what is said of each."""
        short, self._short = self._short, []
        return short

    def _rows(self, complete: Sequence[_Family]) -> pa.Table:
        """None: those that were accepted have gone on."""
        return complete[0].parent[0].slice(0, 0)


def _taken(places: Sequence[Place]) -> pa.Table:
    """The rows at `places`, in this order."""
    tables: dict[int, pa.Table] = {}
    rows: dict[int, list[int]] = {}
    for table, index in places:
        tables.setdefault(id(table), table)
        rows.setdefault(id(table), []).append(index)
    starts, start = dict[int, int](), 0
    for key in tables:
        starts[key], start = start, start + len(rows[key])
    taken = concat([take_rows(table, rows[key]) for key, table in tables.items()])
    if len(tables) == 1:
        return taken
    order: list[int] = []
    for table, _ in places:
        order.append(starts[id(table)])
        starts[id(table)] += 1
    return take_rows(taken, order)


def _ordered(members: Sequence[Place], sizes: Sequence[int]) -> pa.Table:
    """Members of one family after the other, each family in the order of its paths."""
    table = _taken(members)
    family = np.repeat(np.arange(len(sizes)), sizes).tolist()
    paths = table.column(PATH).to_pylist()
    order = sorted(range(table.num_rows), key=lambda row: (family[row], paths[row]))
    return take_rows(table, order)


def _with_lists(
    parents: pa.Table, members: pa.Table | None, sizes: Sequence[int], step: Aggregate, columns: Sequence[str] | None
) -> pa.Table:
    offsets = pa.array(np.concatenate([[0], np.cumsum(sizes)]), pa.int32())
    if step.as_rows is not None:
        structs = pa.nulls(0) if members is None else _as_structs(members)
        if isinstance(step, Collected):
            own = lineages(parents.slice(0, 0) if members is None else members)
            parents = _put(parents, MEMBERS, pa.ListArray.from_arrays(offsets, own))
        return _put(parents, step.as_rows, pa.ListArray.from_arrays(offsets, structs))
    if columns is None:
        kept = set(parents.column_names)
        columns = [name for name in members.column_names if name not in kept] if members is not None else []
    for name in columns:
        column = pa.nulls(sum(sizes))
        if members is not None and name in members.column_names:
            column = members.column(name).combine_chunks()
        parents = _put(parents, name, pa.ListArray.from_arrays(offsets, column))
    return parents


def _as_structs(members: pa.Table) -> pa.Array:
    names = [name for name in members.column_names if name not in LINEAGE]
    return pa.StructArray.from_arrays([members.column(name).combine_chunks() for name in names], names=names)


def too_large(members: pa.Table) -> str:
    """Why members cannot become the lists of one row; empty where they can."""
    if size_bytes(members) <= MOST_VALUE_BYTES:
        return ""
    columns = {name: members.column(name).nbytes for name in members.column_names if name not in LINEAGE}
    name, size = max(columns.items(), key=lambda one: one[1])
    if size <= MOST_VALUE_BYTES:
        return ""
    said = f"{members.num_rows:,} rows have {size / 2**30:.1f} GiB in column {name!r}, and a list holds at most 2 GiB"
    return f"{said}; drop the column before (KeepColumns), or collect only what is needed (columns=[...])"


def _put(table: pa.Table, name: str, column: pa.Array) -> pa.Table:
    if name in table.column_names:
        return table.set_column(table.column_names.index(name), name, column)
    return table.append_column(name, column)


def grouped(rows: pa.Table, step: Aggregate, parent: pa.Table) -> pa.Table:
    """All of `rows`, in order, as one row: `parent` (lineage and group columns) with lists. Raises InputError."""
    if problem := too_large(rows):
        raise InputError(f"step {step.name!r}: {problem}")
    return _with_lists(parent, rows, [rows.num_rows], step, step.columns)
