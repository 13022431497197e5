"""Says what a step is: columns in, columns out, resources, one method.

A step does not know its pipeline: while a `with Pipeline(…)` block is open, new steps and edges
are noted in a `Collector` that a context variable holds, so blocks nest and threads do not mix.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self, TypeVar, cast

from pydantic import AfterValidator, ConfigDict, Field, PrivateAttr, model_validator

from raypipe.contracts.artifact_writer import ArtifactWriter
from raypipe.contracts.columns import ColumnContract, Columns
from raypipe.contracts.declaration import Spec
from raypipe.contracts.llm import Caller, Request
from raypipe.contracts.model_pool import ModelOrPool
from raypipe.errors import SpecError
from raypipe.row import Values
from raypipe.security.permissions import Reach

if TYPE_CHECKING:
    import pyarrow as pa

Output = Values | Sequence[Values] | None
"""What a step makes of one row: one row's new columns, several rows', or nothing (filtered)."""

By = Literal["scatter", "root", "all"] | list[str]
"""What an aggregate closes: the nearest scatter, the source row, everything, or groups of columns."""


class Runs(StrEnum):
    """Where the work of a step is done."""

    SOURCE = "source"
    """It reads rows."""
    TABLE = "table"
    """In the conductor, on whole Arrow tables: column work that costs next to nothing."""
    ROW = "row"
    """In a worker of its model's pool, one coroutine a row."""
    THREAD = "thread"
    """In a worker without a model, in a thread, row after row: it may block."""
    GATHER = "gather"
    """In the conductor, once the last row of a family is there."""


class Shape(StrEnum):
    """How many rows come out for one row in."""

    MAP = "map"
    SCATTER = "scatter"
    FILTER = "filter"


@dataclass
class Collector:
    """Steps and edges made while a pipeline block is open."""

    steps: list[Step] = field(default_factory=list["Step"])
    edges: list[tuple[Step, Step]] = field(default_factory=list["tuple[Step, Step]"])
    routes: list[tuple[Step | None, Any, list[Step]]] = field(
        default_factory=list["tuple[Step | None, Any, list[Step]]"]
    )
    """Step, its `Routing`, and the steps it chooses among; no step where the rows are those of `run(dataset=…)`."""
    models: dict[str, Any] = field(default_factory=dict[str, Any])


collecting: ContextVar[Collector | None] = ContextVar("collecting", default=None)

S = TypeVar("S", bound="GraphNode | Sequence[GraphNode]")


class GraphNode:
    """A step in the graph that a user writes: what becomes of its output rows, and which steps they go on to.

    Knows nothing of what the step does.
    """

    def scatter(self) -> Self:
        """Each output is a list, and each item of it a row of its own, a child of the row that it was made of.

        `Aggregate` brings the children back together; those that failed on the way are missing then. Raises SpecError
        for a step that has an ending already.
        """
        return self._ending("scattered", True)

    def broadcast(self, n: int) -> Self:
        """Each output row goes on `n` times, told apart by the column `sample` (0 to n-1).

        Equal requests of these rows are sent separately. Raises SpecError for `n` below 1, or a step that has an ending
        already.
        """
        return self._ending("copies", n)

    def aggregate(self, by: By = "scatter") -> Self:
        """Output rows are brought together: those of the nearest scatter, or as `by` says, see `Aggregate`.

        What was added to them becomes lists. Raises SpecError for a step that has an ending already.
        """
        return self._ending("gathered", by)

    def custom(self, callback: str | Callable[[list[dict[str, Any]]], Any]) -> Self:
        """`callback(rows)` gets the output rows of a family as mappings and returns the rows to go on with.

        It is a function or its dotted path; what it raises, or returns that is no mapping or list of them, fails the
        family. Raises SpecError for a step that has an ending already.
        """
        return self._ending("callback", callback)

    def _ending(self, attribute: str, value: object) -> Self:
        setattr(self, attribute, value)
        step = cast("Step", self)
        if _count_endings(step) > 1 or step.copies < 1:
            where = f"{type(self).__name__} {step.name!r}"
            raise SpecError.of(where, f"{attribute} cannot be added to this step's ending")
        return self

    def connect(self, *others: Step, routing_batch_function: Any = None) -> Any:
        """Rows of this step go on to each of `others`, or to those that a routing chooses; returns the last of them."""
        if routing_batch_function is not None:
            _ = self >> routing_batch_function >> list(others)
        else:
            for other in others:
                join(self, other)
        return others[-1] if others else self

    def __rshift__(self, other: S) -> S:
        """Rows of this step go on to another, or to each of a list; returns it. Raises SpecError outside of a block."""
        if not isinstance(other, Step | list):
            return NotImplemented
        for target in cast("list[Step]", other) if isinstance(other, list) else [other]:
            join(self, target)
        return other

    def __rrshift__(self, others: list[Step]) -> Self:
        for other in others:
            join(other, self)
        return self


def _check_name(name: str | None) -> str | None:
    if name is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError("a step name has letters, digits, '_', '-' and '.' and starts with a letter or digit")
    return name


class StepResources(Spec):
    """What the workers of a step are given; where several steps share workers, the largest wish counts.

    CPUs, GPUs and memory are kept for each worker by Ray; the `local` engine has one process and keeps nothing.
    """

    replicas: int = Field(default=1, ge=1)
    cpus: float = Field(default=0, ge=0)
    """CPUs for each worker."""
    gpus: float = Field(default=0, ge=0)
    """GPUs for each worker, or a share of one."""
    memory: int = Field(default=0, ge=0)
    """Bytes for each worker."""


class Step(GraphNode, ColumnContract, ArtifactWriter):
    """One step of a pipeline. Subclasses set `runs` and write the one method that goes with it."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True, populate_by_name=True)

    runs: ClassVar[Runs] = Runs.ROW
    output_shape: ClassVar[Shape] = Shape.MAP
    """How many rows come out for one, unless `scatter` makes more of them."""
    is_told_identity: ClassVar[bool] = False
    """Whether a row comes with its identity, as the column `_row_id`."""
    is_given_batches: ClassVar[bool] = False
    """Runs.THREAD: whether its method is given up to `input_batch_size` rows at once."""
    is_given_all: ClassVar[bool] = False
    """Runs.THREAD: whether its one row holds all rows, as the column `rows`."""

    name: Annotated[str | None, AfterValidator(_check_name)] = Field(default=None, kw_only=False)
    """By default the class name in snake case and a number."""
    llm: ModelOrPool | None = None
    on_error: Literal["fail_row", "null", "stop"] = "fail_row"
    """What a row that cannot pass does: it is a failed row, it goes on with nulls for outputs, or it stops the run."""
    input_mappings: dict[str, str] = Field(default_factory=dict)
    """The column that stands for one that the step reads: `{"instruction": "prompt"}`."""
    output_mappings: dict[str, str] = Field(default_factory=dict)
    """Another name for a column that the step writes: `{"generation": "answer"}`."""
    resources: StepResources = Field(default_factory=StepResources)
    use_cache: bool = True
    """False: calls that earlier runs made for this step are not reused."""
    input_batch_size: int = Field(default=50, ge=1)
    """Rows in one call of a step that is given several; rows that ask a model go one by one."""
    when: str | Callable[[Values], Any] | None = None
    """Only rows for which this holds come here (a Jinja expression or a function); others end, or their branch does."""
    scattered: bool = Field(default=False, alias="scatter")
    """Each output is a list; each item becomes a row."""
    copies: int = Field(default=1, ge=1, le=1_000_000, alias="broadcast")
    """Each output row is repeated this many times, told apart by the column `sample`."""
    gathered: By | None = Field(default=None, alias="aggregate")
    """Output rows are brought together again; see `Aggregate`."""
    callback: str | Callable[[list[dict[str, Any]]], Any] | None = Field(default=None, alias="custom")
    """Function that gets the output rows of a family and returns the rows to go on with."""

    def __init__(self, name: str | None = None, /, **fields: Any) -> None:
        super().__init__(**(fields if name is None else {"name": name} | fields))
        collector = collecting.get()
        if collector is not None:
            collector.steps.append(self)

    @model_validator(mode="after")
    def _has_one_ending(self) -> Self:
        if _count_endings(self) > 1:
            raise ValueError("scatter, broadcast, aggregate and custom exclude each other; add a step for the second")
        return self

    @property
    def shape(self) -> Shape:
        """How many rows come out for one."""
        return Shape.SCATTER if self.scattered and self.output_shape is Shape.MAP else self.output_shape

    def own_source(self) -> Source | None:
        """What makes the rows of a step that begins a pipeline though it reads none; most steps have none."""

    def problems(self) -> list[str]:
        """What is unsound about the step itself, one sentence each; asked once the graph is complete."""
        return []

    def requests(self) -> tuple[Request, ...]:
        """Requests like those of its rows, as far as not every model can be asked them."""
        return ()

    def open(self) -> None:
        """Called once in each worker before its first row, to load what the step needs. By default it does nothing.

        What it raises stops the run, which can be resumed (InfrastructureError, unless it is an error of raypipe's).
        """

    def close(self) -> None:
        """Called once in each worker that was opened, after its last row. By default it does nothing.

        What it raises is logged as a warning and changes no row.
        """

    async def process_row(self, row: Values, llm: Caller) -> Output:
        """Runs.ROW: the new columns for one row; a list of them where it scatters, `None` where it filters a row.

        `await llm(…)` asks the step's model. Rows are worked on at the same time, in one event loop: nothing here may
        block. Raises `RowError`, or anything else, for a row that cannot pass.
        """
        raise NotImplementedError

    def process_row_in_thread(self, row: Values) -> Output:
        """Runs.THREAD: the new columns for one row; a list of them where it scatters, `None` where it filters a row.

        It may block; several threads of a worker may call it at the same time. Any exception fails this row alone.
        """
        raise NotImplementedError

    def process_batch_in_thread(self, rows: Sequence[Values]) -> list[Output]:
        """Runs.THREAD with `is_given_batches`: one output for each of up to `input_batch_size` rows, in their order.

        After an exception, the rows are tried one by one with `process_row_in_thread`.
        """
        raise NotImplementedError

    def process_table(self, table: pa.Table) -> pa.Table:
        """Runs.TABLE: the same rows in the same order, with other columns; lineage columns (`row.LINEAGE`) stay.

        It runs in the conductor, where all rows pass: anything slow belongs into a step that runs in workers.
        """
        raise NotImplementedError


def _count_endings(step: Step) -> int:
    return sum((step.scattered, step.copies > 1, step.gathered is not None, step.callback is not None))


def join(upstream: GraphNode, downstream: GraphNode) -> None:
    """Note an edge in the open pipeline block. Raises SpecError outside of one."""
    upstream, downstream = cast("Step", upstream), cast("Step", downstream)
    collector = collecting.get()
    if collector is None:
        places = f"{upstream.name or type(upstream).__name__!r} >> {downstream.name or type(downstream).__name__!r}"
        problem = "steps are joined inside a `with Pipeline(…)` block; move this line into one"
        raise SpecError.of(places, problem)
    collector.edges.append((upstream, downstream))


@dataclass(frozen=True, slots=True)
class Unit:
    """A part of a source that is read in order, as one whole: a list, a file.

    `name` tells it from the others and must not depend on where the source is stored; `location` is where it is.
    """

    name: str
    location: str = ""

    @property
    def has_guessed_types(self) -> bool:
        """Whether what it holds is text, and what a column is depends on all of its values."""
        return self.location.lower().removesuffix(".gz").endswith((".csv", ".tsv"))


class Source(Step):
    """A step that reads rows."""

    runs: ClassVar[Runs] = Runs.SOURCE

    identity: tuple[str, ...] | None = None
    """Columns whose content is a row's identity; by default all. Name them for a source that grows columns."""
    _reach: Reach = PrivateAttr(default_factory=Reach)

    def units(self) -> list[Unit]:
        """The parts, in order; by default one. Raises InputError when there is nothing to read.

        It is asked before anything is spent. On Ray several parts are read at the same time.
        """
        return [Unit("")]

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        """The rows of one part in order, as tables of any size; the same rows in every run, so that it can be resumed.

        Raises InputError for what is no table of rows.
        """
        raise NotImplementedError

    def columns(self) -> Columns:
        """Columns of the rows, if they can be known without reading them all."""
        return None

    def row_count(self) -> int | None:
        """How many rows there are, if that can be known without reading them; for estimates."""
        return None

    def columns_after(self, columns: Columns) -> Columns:
        found = self.columns()
        return None if found is None else tuple(self.output_mappings.get(name, name) for name in found)


class Aggregate(Step):
    """Many rows into one.

    By default it closes the nearest scatter: the parent row comes back, and what was added since
    becomes lists in the order of the children. `by="root"` goes back to the source row, `by="all"` makes
    one row of everything, `by=[columns]` one row for each group of equal values.
    Children that failed or were filtered are missing from the lists; a family that lost all of
    them comes back with empty lists.
    """

    runs: ClassVar[Runs] = Runs.GATHER
    needs_whole_row: ClassVar[bool] = True

    by: By = "scatter"
    columns: list[str] | None = None
    """Columns to collect; by default all that the group's own row does not have. Those that it has are replaced."""
    as_rows: str | None = None
    """Collect whole rows, as a list of structs, into this one column."""

    def reads(self) -> tuple[str, ...]:
        named = self.by if isinstance(self.by, list) else []
        return tuple(dict.fromkeys([*named, *(self.columns or [])]))

    def changes(self) -> Columns:
        return (self.as_rows,) if self.as_rows is not None else None

    @property
    def is_barrier(self) -> bool:
        """Whether it needs every row of the run before it can give its first."""
        return self.by == "all" or isinstance(self.by, list)
