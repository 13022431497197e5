"""Says how rows part and meet again: which branches a row takes, and what becomes of its branches.

Knows nothing of how rows travel. A row that takes a branch keeps its identity, so its branches meet by identity, in
the order in which the edges were written, whatever the order in which they arrive.
"""

from __future__ import annotations

import functools
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from raypipe.contracts.declaration import Spec
from raypipe.contracts.imports import imported, imported_function
from raypipe.contracts.step import Columns, Output, Runs, Shape, Step, collecting, join
from raypipe.errors import RowError, SpecError
from raypipe.row import LINEAGE, METADATA, ROUTE, ROW_ID, Values

if TYPE_CHECKING:
    import pyarrow as pa

_SEEDING = threading.Lock()
"""Held by the one thread that has seeded `random`, until it goes on as if nothing had been."""


@dataclass(frozen=True)
class Branch:
    """The rows of some families that came through one branch, one row for each family."""

    rows: pa.Table
    """Null where a family has no row here."""
    is_there: pa.Array
    """Whether a family has a row here: it was not filtered, did not fail, was routed here."""
    changes: Columns
    """Columns that the branch may have changed; `None` where that cannot be known."""


def columns_of_all(branches: Sequence[Columns]) -> Columns:
    """The columns that rows have who come from several steps; unknown where one step's are."""
    found: dict[str, None] = {}
    for columns in branches:
        if columns is None:
            return None
        found.update(dict.fromkeys(columns))
    return tuple(found)


class Meet(Step):
    """The branches of each row come together.

    The row has the columns of all its branches. A value that several branches changed is taken from the last of them,
    one that none changed is as it was before they parted, one that only a branch without the row has is null; what
    steps kept of their calls is brought together. A row that no branch has any more is gone. Put in by itself before a
    step that comes after several.
    """

    runs: ClassVar[Runs] = Runs.GATHER
    needs_whole_row: ClassVar[bool] = True

    def columns_of(self, branches: Sequence[Columns]) -> Columns:
        """Columns behind the step, given those of its branches."""
        return columns_of_all(branches)

    def meet(self, parents: pa.Table, branches: Sequence[Branch]) -> pa.Table:
        """One row for each row of `parents`, the rows as they were before they parted, lineage included."""
        import pyarrow as pa

        from raypipe.values.arrays import to_lossless_array

        lineage = [name for name in parents.column_names if name in LINEAGE]
        names = dict.fromkeys([*lineage, *(name for branch in branches for name in branch.rows.column_names)])
        columns = {name: parents.column(name) for name in parents.column_names if name in names}
        for branch in branches:
            for name in branch.rows.column_names:
                if name not in columns:
                    columns[name] = branch.rows.column(name)
                elif branch.changes is None or name in branch.changes:
                    before = parents.column(name) if name in parents.column_names else None
                    columns[name] = _overlaid(columns[name], branch.rows.column(name), branch.is_there, before)
        kept = [branch.rows.column(METADATA) for branch in branches if METADATA in branch.rows.column_names]
        if len(kept) > 1:
            rows = zip(*(column.to_pylist() for column in kept), strict=True)
            columns[METADATA] = to_lossless_array([functools.reduce(merged_metadata, row) for row in rows], "")
        return pa.table({name: columns[name] for name in names})


def merged_metadata(one: Any, other: Any) -> Any:
    """What steps kept of their calls, under their names: mappings, or lists of them for answers that are grouped."""
    if one is None or other is None:
        return other if one is None else one
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        # In a table, a row has the names of its neighbours too, with nulls.
        new = {name: value for name, value in other.items() if value is not None or one.get(name) is None}
        return {**one, **new}
    if not isinstance(one, Mapping | list) or not isinstance(other, Mapping | list):
        return other  # a column of a user's that happens to have the name
    if isinstance(one, Mapping):
        return [merged_metadata(one, item) for item in other]
    if isinstance(other, Mapping):
        return [merged_metadata(item, other) for item in one]
    if len(one) == len(other):
        return [merged_metadata(*items) for items in zip(one, other, strict=True)]
    return [*one, *other]


class Copies(Step):
    """Rows as they come, for a step that cannot repeat its own; put in by itself behind loaders and aggregates."""

    runs: ClassVar[Runs] = Runs.TABLE
    needs_whole_row: ClassVar[bool] = True

    def process_table(self, table: pa.Table) -> pa.Table:
        return table


def _overlaid(kept: Any, new: Any, is_there: Any, before: Any) -> Any:
    """`new` where its branch has the row and another value than `before`; elsewhere `kept`."""
    pc: Any = import_module("pyarrow.compute")
    changed = pc.and_(is_there, pc.is_valid(new) if before is None else _differs(new, before))
    from raypipe.values.arrays import as_is_array

    kept, new = _alike(kept, new)
    try:
        return pc.if_else(changed, new, kept)
    except NotImplementedError:  # an extension type
        pairs = zip(changed.to_pylist(), new.to_pylist(), kept.to_pylist(), strict=True)
        return as_is_array([one if is_new else other for is_new, one, other in pairs])


def _differs(one: Any, other: Any) -> Any:
    pc: Any = import_module("pyarrow.compute")
    if one.type.equals(other.type):
        try:
            is_null = pc.or_(pc.is_null(one), pc.is_null(other))
            differs = pc.if_else(is_null, pc.xor(pc.is_null(one), pc.is_null(other)), pc.not_equal(one, other))
            if str(one.type) not in ("float", "double", "halffloat"):
                return differs
            are_nan = pc.and_(pc.is_nan(one), pc.is_nan(other))
            return pc.and_(differs, pc.invert(pc.fill_null(are_nan, False)))
        except NotImplementedError:  # lists and structs
            pass
    import pyarrow as pa

    return pa.chunked_array(
        [[repr(a) != repr(b) for a, b in zip(one.to_pylist(), other.to_pylist(), strict=True)]], pa.bool_()
    )


def _alike(one: Any, other: Any) -> tuple[Any, Any]:
    """Two columns under one type: values of no common type travel as they are."""
    from raypipe.values.arrays import as_is_array

    if one.type.equals(other.type):
        return one, other
    import pyarrow as pa

    for empty, full in ((one, other), (other, one)):
        if pa.types.is_null(empty.type):
            filled = pa.nulls(len(empty), full.type)
            return (filled, full) if empty is one else (full, filled)
    return as_is_array(one.to_pylist()), as_is_array(other.to_pylist())


class Route(Step):
    """Says for each row which of the steps behind it the row goes to. Put in by itself behind a step that is routed.

    `random` is seeded with the row's identity while the function is called, so a row takes the same way in every run
    (as far as no other function of the pipeline draws from `random` at that moment). A row that goes nowhere is
    filtered.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.FILTER
    is_told_identity: ClassVar[bool] = True
    written_columns: ClassVar[Mapping[str, str]] = {ROUTE: "list<string>"}

    routing: Any
    targets: dict[str, str]
    """For each step it chooses among, by its name, where rows enter it."""

    _function: Callable[..., Any] | None = PrivateAttr(default=None)

    def needs(self) -> Columns:
        return None if self.routing.sees == "row" else ()

    def open(self) -> None:
        self._function = self.routing.opened()

    def process_row_in_thread(self, row: Values) -> Output:
        assert self._function is not None
        identity, steps = row[ROW_ID], list(self.targets)
        seen = {name: value for name, value in row.items() if name != ROW_ID}
        seed = identity + self.routing.seed.to_bytes(8, "little", signed=True)
        if self.routing.sample is not None:
            names = self._checked(random.Random(seed).sample(steps, self.routing.sample))
        else:
            with _SEEDING:
                state = random.getstate()
                random.seed(seed)
                try:
                    names = self._checked(
                        self._function(seen, steps) if self.routing.sees == "row" else self._function(steps)
                    )
                finally:
                    random.setstate(state)
        return {ROUTE: names} if names else None

    def _checked(self, chosen: Any) -> list[str]:
        if chosen is None:
            raise RowError(
                "the routing function chose nothing; it returns names of steps, or [] for none", kind="routing"
            )
        names: list[str] = [chosen] if isinstance(chosen, str) else list(chosen)
        for name in names:
            if name not in self.targets:
                listed = ", ".join(repr(target) for target in self.targets)
                raise RowError(f"the routing function chose {name!r}; it may choose among {listed}", kind="routing")
        return [self.targets[name] for name in names]


class Routing(Spec):
    """Which of the steps behind it a row goes to: `upstream >> routing >> [one, other]`."""

    function: str | Callable[..., Any] | None = None
    """A function or its dotted path."""
    sample: int | None = Field(default=None, ge=1)
    """Instead of a function: so many of the steps, by chance."""
    seed: int = 0
    sees: Literal["steps", "row"] = "steps"
    """Whether the function is given the names of the steps, or the row and the names."""

    @model_validator(mode="after")
    def _says_how(self) -> Self:
        if (self.function is None) == (self.sample is None):
            raise ValueError("a routing has either a function or a sample; give one of them")
        if isinstance(self.function, str):
            imported_function(self.function)
        return self

    def opened(self) -> Callable[..., Any]:
        """The function to call. Raises SpecError when there is none to import."""
        count = self.sample
        if count is not None:
            return lambda steps: random.sample(steps, count)
        assert self.function is not None
        found: Any = imported(self.function) if isinstance(self.function, str) else self.function
        return found.opened() if isinstance(found, Routing) else found

    def __call__(self, *arguments: Any) -> Any:
        return self.opened()(*arguments)

    def __rrshift__(self, upstream: object) -> _Routed:
        if not isinstance(upstream, Step):
            problem = "one step's rows are routed; write `a >> routing >> [c, d]` for each of several"
            raise SpecError.of("routing", problem)
        return _Routed(upstream, self)

    def __rshift__(self, steps: list[Step]) -> list[Step]:
        """Without a step before it: rows of `run(dataset=…)` are routed."""
        return _Routed(None, self) >> steps


@dataclass(frozen=True)
class _Routed:
    """A step and its routing, waiting for the steps behind it."""

    upstream: Step | None
    routing: Routing

    def __rshift__(self, steps: list[Step]) -> list[Step]:
        where = f"routing after {self.upstream.name!r}" if self.upstream is not None else "routing"
        if not isinstance(steps, list) or not steps:  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError.of(where, "chooses among steps; write >> [one, other]")
        if self.routing.sample is not None and self.routing.sample > len(steps):
            problem = f"samples {self.routing.sample} of {len(steps)} steps; sample fewer or add steps"
            raise SpecError.of(where, problem)
        for step in steps:
            if self.upstream is not None:
                join(self.upstream, step)
        collector = collecting.get()
        if collector is None:
            raise SpecError.of(where, "stands outside of a `with Pipeline(…)` block; move it in")
        collector.routes.append((self.upstream, self.routing, steps))
        return steps


def routing_batch_function(function: Callable[[list[str]], list[str]] | None = None) -> Any:
    """Make a routing of a function of the names of the steps behind it; used bare or called.

    It is called once for each row, with `random` seeded by the row's identity.
    """
    return (lambda one: Routing(function=one)) if function is None else Routing(function=function)


def routing_function(function: Callable[[Values, list[str]], str | Sequence[str]]) -> Routing:
    """Make a routing of a function of the row and of the names of the steps behind it.

    It returns the name of a step, or several; a row for which it returns `[]` goes nowhere and is filtered, one for
    which it returns `None` or another name fails (`routing`). It is called as that of `routing_batch_function` is.
    """
    return Routing(function=function, sees="row")


def sample_n_steps(n: int, seed: int = 0) -> Routing:
    """A routing to `n` of the steps behind it by chance, chosen anew for each row.

    A row goes the same way in every run with the same `seed`. Raises SpecError where `n` is less than 1, or later, in
    `>> [one, other]`, where there are fewer steps.
    """
    return Routing(sample=n, seed=seed)
