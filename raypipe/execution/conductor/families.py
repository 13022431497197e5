"""Brings the rows of a family together and finds out when its last one has arrived. Knows nothing of queues or workers.

A family is all that became of one row in a scatter (or of one source row). It has a token for everything that may
still bring it a member: one more for each row made, one less for each row that ended or arrived; at none it is
complete. No family waits for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from raypipe.contracts.step import Aggregate
from raypipe.execution.conductor.compound_rows import describe_oversize, with_lists
from raypipe.graph.branching import Branch, Meet
from raypipe.graph.repeat import Until
from raypipe.plan.plan import PlannedStep
from raypipe.row import ANCESTORS, BATCH, LINEAGE, PATH, ROW_ID, Failure
from raypipe.storage.tables import concat
from raypipe.values.byte_bounds import READ_BYTES
from raypipe.values.selection import size_bytes, take_rows

RowRef = tuple[pa.Table, int]
"""A row: its table, and its index in it."""


@dataclass
class _Family:
    parent: RowRef
    batch: int
    tokens: int = 0
    members: list[RowRef] = field(default_factory=list["RowRef"])
    branches: dict[str, RowRef] = field(default_factory=dict[str, "RowRef"])
    """Where branches meet: the row of each, by the step it came from."""
    is_spoiled: bool = False
    """Whether a row of it was left unfinished, so that it never becomes a row."""
    members_bytes: float = 0.0
    accepted: int = 0
    candidates: int = 0
    """Of a repeated row: rows that came to the end, and rows made so far."""


@dataclass(frozen=True)
class OpenFamilies:
    """Families that wait for rows, taken out of a conductor's memory."""

    keys: list[bytes]
    parents: pa.Table
    states: list[tuple[int, bool, int, int]]
    """Of each family: its tokens, whether it is spoiled, rows accepted and candidates made."""
    members: pa.Table | None
    member_of: list[int]
    """For each member, the number of its family."""
    branches: pa.Table | None
    branch_of: list[tuple[str, int]]


def with_batch(rows: pa.Table, batch: int) -> pa.Table:
    """The rows as those of a batch."""
    column = pa.array(np.full(rows.num_rows, batch, np.int32))
    return rows.set_column(rows.column_names.index(BATCH), BATCH, column)


class Families:
    """The open families of one aggregate."""

    def __init__(self, planned: PlannedStep) -> None:
        assert planned.gather is not None
        self.name = planned.name
        self.gather = planned.gather
        self._step = planned.step
        self._open: dict[bytes, _Family] = {}
        self._complete: list[_Family] = []
        self._spoiled: list[_Family] = []
        self._failed: list[tuple[pa.Table, Failure]] = []

    def open(self, parents: pa.Table) -> None:
        """A family for each row of `parents`, with one token."""
        ids, batches = parents.column(ROW_ID).to_pylist(), parents.column(BATCH).to_pylist()
        for index, (row_id, batch) in enumerate(zip(ids, batches, strict=True)):
            self._open[row_id] = _Family((parents, index), batch, tokens=1)

    def move(self, rows: pa.Table, change: int) -> None:
        """Add `change` to the tokens of each row's family."""
        for key in self._keys(rows):
            self._add(key, change)

    def arrive(self, rows: pa.Table, upstream: str) -> None:
        """Take in members that came from step `upstream`; each hands in a token."""
        keys = self._keys(rows)
        kept = self._without_inherited(rows, self._open[keys[0]].parent[0])
        each = size_bytes(kept) / rows.num_rows
        for index, key in enumerate(keys):
            family = self._open[key]
            family.members.append((kept, index))
            family.members_bytes += each
            self._add(key, -1)

    def _without_inherited(self, rows: pa.Table, parents: pa.Table) -> pa.Table:
        """Members without columns that are their parents' and that are not collected: each would hold a copy."""
        assert isinstance(self._step, Aggregate)
        if self._step.as_rows is not None:
            return rows
        columns = self._step.columns or self.gather.collects
        theirs = {*parents.column_names} - {*self.gather.new}
        known = {*columns} if columns is not None else {*rows.column_names} - theirs
        return rows.select([name for name in rows.column_names if name in LINEAGE or name in known])

    def spoil(self, rows: pa.Table) -> None:
        """Mark the families of rows that will not arrive in this run."""
        for key in self._keys(rows):
            self._open[key].is_spoiled = True

    def detach(self, batch: int) -> OpenFamilies | None:
        """Take a batch's families away as they are, if it has any."""
        keys = [key for key, family in self._open.items() if family.batch == batch]
        if not keys:
            return None
        left = [self._open.pop(key) for key in keys]
        members = [(index, ref) for index, family in enumerate(left) for ref in family.members]
        branches = [(name, index, ref) for index, family in enumerate(left) for name, ref in family.branches.items()]
        return OpenFamilies(
            keys,
            _take([family.parent for family in left]),
            [(family.tokens, family.is_spoiled, family.accepted, family.candidates) for family in left],
            _take([ref for _, ref in members]) if members else None,
            [index for index, _ in members],
            _take([ref for *_, ref in branches]) if branches else None,
            [(name, index) for name, index, _ in branches],
        )

    def attach(self, left: OpenFamilies, batch: int) -> None:
        """Go on with families that were taken away."""
        parents = with_batch(left.parents, batch)
        families = [
            _Family((parents, at), batch, tokens, is_spoiled=is_spoiled, accepted=accepted, candidates=candidates)
            for at, (tokens, is_spoiled, accepted, candidates) in enumerate(left.states)
        ]
        if left.members is not None:
            members = with_batch(left.members, batch)
            for at, index in enumerate(left.member_of):
                families[index].members.append((members, at))
        if left.branches is not None:
            branches = with_batch(left.branches, batch)
            for at, (name, index) in enumerate(left.branch_of):
                families[index].branches[name] = (branches, at)
        self._open.update(zip(left.keys, families, strict=True))

    def _keys(self, rows: pa.Table) -> list[bytes]:
        level = self.gather.level
        ids, ancestors = rows.column(ROW_ID).to_pylist(), rows.column(ANCESTORS).to_pylist()
        return [above[level] if len(above) > level else row_id for row_id, above in zip(ids, ancestors, strict=True)]

    def _add(self, key: bytes, change: int) -> None:
        family = self._open[key]
        family.tokens += change
        if family.tokens == 0:
            (self._spoiled if family.is_spoiled else self._complete).append(self._open.pop(key))

    def take_complete(self) -> tuple[pa.Table, pa.Table] | None:
        """The parents of families completed since the last time, and the rows that they become."""
        if not self._complete:
            return None
        sizes = np.cumsum([family.members_bytes for family in self._complete])
        count = max(1, int(np.searchsorted(sizes, READ_BYTES, side="right")))
        complete, self._complete = self._complete[:count], self._complete[count:]
        return _take([family.parent for family in complete]), self._rows(complete)

    def take_spoiled(self) -> pa.Table | None:
        """The parents of families that ended incomplete since the last time."""
        spoiled, self._spoiled = self._spoiled, []
        return _take([family.parent for family in spoiled]) if spoiled else None

    def take_failed(self) -> list[tuple[pa.Table, Failure]]:
        """The parents (tables of one) of families that cannot become a row, and why."""
        failed, self._failed = self._failed, []
        return failed

    def _rows(self, complete: Sequence[_Family]) -> pa.Table:
        """One row for each family: the parent's, with lists."""
        assert isinstance(self._step, Aggregate)
        parents = _take([family.parent for family in complete])
        members = [ref for family in complete for ref in family.members]
        sizes = [len(family.members) for family in complete]
        rows = _take_in_order(members, sizes) if members else None
        if rows is not None and (problem := describe_oversize(rows)):
            self._failed.append((parents, Failure("size", problem)))
            return parents.slice(0, 0)
        columns = self._step.columns or self.gather.collects
        if columns is None:
            kept = set(parents.column_names) - set(self.gather.new)
            columns = [name for name in rows.column_names if name not in kept] if rows is not None else []
        return with_lists(parents, rows, sizes, self._step, columns)


class Meetings(Families):
    """The rows whose branches have not all come to one step yet."""

    def arrive(self, rows: pa.Table, upstream: str) -> None:
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
            return _take([family.parent for family in complete]).slice(0, 0)
        branches: list[Branch] = []
        for upstream, changes in self.gather.branches.items():
            refs = [family.branches[upstream] for family in met if upstream in family.branches]
            is_there = np.array([upstream in family.branches for family in met])
            if not refs:
                continue
            order = np.where(is_there, np.cumsum(is_there) - 1, -1)
            rows = _take(refs)
            columns = [name for name in rows.column_names if name not in LINEAGE]
            branches.append(Branch(take_rows(rows.select(columns), order), pa.array(is_there), changes))
        made = self._step.meet(_take([family.parent for family in met]), branches)
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

    def arrive(self, rows: pa.Table, upstream: str) -> None:
        """Accepted; they go on at once."""
        for key in self._keys(rows):
            self._open[key].accepted += 1
            self._add(key, -1)

    def _add(self, key: bytes, change: int) -> None:
        self._open[key].tokens += change
        self._changed[key] = None

    def attach(self, left: OpenFamilies, batch: int) -> None:
        super().attach(left, batch)
        self._changed.update(dict.fromkeys(left.keys))

    def take_wanted(self) -> tuple[pa.Table, np.ndarray] | None:
        """The rows, each once for every candidate to be made of it now, and the candidates' numbers.

        A row that needs no more is complete. No more candidates are made than would be needed if all were accepted.
        """
        changed, self._changed = self._changed, {}
        refs: list[RowRef] = []
        numbers: list[int] = []
        for key in changed:
            family = self._open.get(key)
            if family is None:
                continue
            missing = self._until.n_accepted - family.accepted - family.tokens
            wanted = max(0, min(missing, self._until.max_candidates - family.candidates))
            wanted = 0 if family.is_spoiled else wanted
            refs += [family.parent] * wanted
            numbers += range(family.candidates, family.candidates + wanted)
            family.candidates += wanted
            if not wanted and family.tokens == 0:
                self._end(self._open.pop(key))
        return (_take(refs), np.array(numbers)) if refs else None

    def _end(self, family: _Family) -> None:
        if family.is_spoiled:
            self._spoiled.append(family)
            return
        self._complete.append(family)
        if family.accepted < self._until.n_accepted:
            problem = self._until.missing(family.accepted)
            self._failed.append((_take([family.parent]), Failure("candidates", problem)))

    def _rows(self, complete: Sequence[_Family]) -> pa.Table:
        """No rows: the accepted ones have gone on already."""
        return complete[0].parent[0].slice(0, 0)


def _take(refs: Sequence[RowRef]) -> pa.Table:
    """The rows at `refs`, in this order."""
    tables: dict[int, pa.Table] = {}
    rows: dict[int, list[int]] = {}
    for table, index in refs:
        tables.setdefault(id(table), table)
        rows.setdefault(id(table), []).append(index)
    starts, start = dict[int, int](), 0
    for key in tables:
        starts[key], start = start, start + len(rows[key])
    taken = concat([take_rows(table, rows[key]) for key, table in tables.items()])
    if len(tables) == 1:
        return taken
    order: list[int] = []
    for table, _ in refs:
        order.append(starts[id(table)])
        starts[id(table)] += 1
    return take_rows(taken, order)


def _take_in_order(members: Sequence[RowRef], sizes: Sequence[int]) -> pa.Table:
    """The members of one family after the other, each family in the order of its paths."""
    table = _take(members)
    family = np.repeat(np.arange(len(sizes)), sizes).tolist()
    paths = table.column(PATH).to_pylist()
    order = sorted(range(table.num_rows), key=lambda row: (family[row], paths[row]))
    return take_rows(table, order)
