"""The base classes of steps with one method over many rows: a batch, all rows of a run, or rows of their own.

Knows nothing of how rows travel. A batch gives one row back for each row, in order; a step that must see all rows, or
makes more or fewer of them, is a `GlobalStep`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from inspect import getattr_static, isfunction
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypeVar, cast

from pydantic import Field, PrivateAttr

from raypipe.contracts.declaration import Late
from raypipe.contracts.step import Columns, Output, Runs, Shape, Source, Unit
from raypipe.contracts.step import Step as Base
from raypipe.errors import InputError, RowError, nearest
from raypipe.row import RESERVED, Values
from raypipe.steps.functions.signatures import call_problem

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")
RuntimeParameter = Annotated[T, Late()]
"""An option without a default that `run(parameters=…)` may give; all may be changed there."""
StepInput = Annotated[list[dict[str, Any]], "rows"]
StepOutput = Iterator[list[dict[str, Any]]]
GeneratorStepOutput = Iterator[tuple[list[dict[str, Any]], bool]]
StepColumns = Sequence[str] | Mapping[str, bool]
"""Column names, or whether each is required by name."""

_ROWS = "rows"
"""The column that holds all rows."""
_ASIDE = "~"
"""Prefix of a column that is put aside, while a `GlobalStep` works, for one that takes its name."""


class _Hooks:
    """What a subclass may write beside `process`."""

    @property
    def outputs(self) -> StepColumns:
        """Columns that are written, by the step's own names.

        A mapping says which of them a row of a batch step must have: `{"label": True, "note": False}`.
        """
        return []

    def load(self) -> None:
        """Called once in each worker before the first rows, to open what all of them need, such as a model or a file.

        What it raises stops the run: the step cannot be loaded.
        """

    def unload(self) -> None:
        """Called once in each worker that was loaded, after the last rows; what it raises changes no result."""


class StepHooks(_Hooks):
    """What a subclass may write beside its methods on rows, where it is a step that rows come to."""

    @property
    def inputs(self) -> StepColumns:
        """Columns that are read, by the step's own names, for which `input_mappings` may put others.

        A mapping says which of them must be there: `{"text": True, "note": False}`.
        """
        return []

    def reads(self) -> tuple[str, ...]:
        """The columns that must be there."""
        declared = self.inputs
        return tuple(name for name in declared if not isinstance(declared, Mapping) or declared[name])

    def open(self) -> None:
        cast("Base", super()).open()
        self.load()

    def close(self) -> None:
        self.unload()


class _ManyRowsStep(StepHooks, Base):
    """Base of the steps that declare their columns as `inputs` and `outputs` and write `process`."""

    def process(self, *inputs: Any) -> Iterator[Any]:
        """Yields lists of rows, which are concatenated."""
        raise NotImplementedError

    def writes(self) -> dict[str, str]:
        return dict.fromkeys(self.outputs, "")

    def problems(self) -> list[str]:
        own = list(self.inputs)
        known = ", ".join(map(repr, own))
        unknown = [name for name in self.input_mappings if own and name not in own]
        found = [f"has input_mappings for {n!r}, but its inputs are: {known}{nearest(n, own)}" for n in unknown]
        return found + _process_problems(type(self), _ManyRowsStep.process, "process(self, inputs)", [])


def _process_problems(kind: type[Any], unwritten: Any, form: str, *given: Any, **named: Any) -> list[str]:
    """Why the `process` of a class is missing, or cannot be called as it will be."""
    if kind.process is unwritten:
        return [f"has no method process; write {form}"]
    process = getattr_static(kind, "process")
    if not isfunction(process):  # a static method, or an object that a decorator made
        return []
    problem = call_problem(process, form, None, *given, **named)
    return [] if problem is None else [problem]


class Step(_ManyRowsStep):
    """A step with `process(self, inputs)`: it is given up to `input_batch_size` rows and yields as many.

    A batch that raises an error is processed again row by row, so that one bad row fails alone.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    needs_whole_row: ClassVar[bool] = True
    is_given_batches: ClassVar[bool] = True

    def changes(self) -> Columns:
        return None

    def process_batch_in_thread(self, rows: Sequence[Values]) -> list[Output]:
        # Copies, since a step may change its rows in place: no change is lost, and none stays for a second try.
        given = deepcopy([dict(row) for row in rows])
        made = [row for part in self.process(given) for row in part]
        if len(made) != len(rows):
            problem = f"process returned {len(made)} rows for {len(rows)}; a step returns as many as it is given"
            raise RowError(f"{problem}: expand lists with ExpandColumns, or write a GlobalStep", kind="output")
        outputs: list[Output] = [{**old, **new} for old, new in zip(rows, made, strict=True)]
        declared = self.outputs
        wanted = [name for name in declared if not isinstance(declared, Mapping) or declared[name]]
        for output in outputs:
            missing = next((name for name in wanted if name not in (output or {})), None)
            if missing is not None:
                raise RowError(f"process returned no column {missing!r}, which is one of its outputs", kind="output")
        return outputs

    def process_row_in_thread(self, row: Values) -> Output:
        return self.process_batch_in_thread([row])[0]


class GlobalStep(_ManyRowsStep):
    """A step with `process(self, inputs)` that is given all rows at once and yields any number of rows."""

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.SCATTER
    consumed_columns: ClassVar[tuple[str, ...]] = (_ROWS,)
    writes_unknown: ClassVar[bool] = True
    is_given_all: ClassVar[bool] = True

    def problems(self) -> list[str]:
        found = super().problems()
        if _ROWS in self.input_mappings:
            found.append(f"has input_mappings for {_ROWS!r}, the name of all rows together; rename its input")
        return found

    def reads(self) -> tuple[str, ...]:
        return (_ROWS,)

    def required(self) -> tuple[str, ...]:
        return super().reads()

    def process_row_in_thread(self, row: Values) -> Output:
        names = self.input_mappings
        if not names:
            return list(_iterate_rows(self.process([dict(one) for one in row[_ROWS]])))
        written = self.writes()
        kept = [name for name in names if name in written]
        given = [_rename(one, names, kept) for one in row[_ROWS]]
        back = {name: column for name, column in names.items() if name not in written}
        return [_rename_back(made, back, names) for made in _iterate_rows(self.process(given))]


def _iterate_rows(parts: Any) -> Iterator[Any]:
    """The rows that `process` yields. Raises RowError where it yields anything but lists of rows."""
    if not isinstance(parts, Iterable) or isinstance(parts, str | bytes | Mapping):
        raise RowError(f"process returned {type(cast('Any', parts)).__name__}; it yields lists of rows", kind="output")
    for part in cast("Iterable[Any]", parts):
        if not isinstance(part, Iterable) or isinstance(part, str | bytes | Mapping):
            problem = f"process yielded {type(cast('Any', part)).__name__}; each yield is a list of rows"
            raise RowError(problem, kind="output")
        yield from cast("Iterable[Any]", part)


def _rename(row: Values, names: Mapping[str, str], written: Sequence[str]) -> dict[str, Any]:
    """A row with its columns under the step's names. A column that already has such a name is put aside.

    The column behind a name that the step itself writes stays, since the new value does not go back there.
    """
    gone = {column for name, column in names.items() if name not in written}
    kept = {_ASIDE + name if name in names else name: value for name, value in row.items() if name not in gone}
    return kept | {name: row.get(column) for name, column in names.items()}


def _rename_back(made: Any, names: Mapping[str, str], all_names: Iterable[str]) -> Any:
    """A row with its columns under the pipeline's names; columns that were put aside get their names back."""
    if not isinstance(made, Mapping):
        return made
    row = cast("Mapping[Any, Any]", made)
    were = {_ASIDE + name: name for name in all_names}
    found = {names.get(name, name): value for name, value in row.items() if name not in were}
    return {were[name]: row[name] for name in row if name in were} | found


class GeneratorStep(_Hooks, Source):
    """A source with `process(self, offset=0)` that yields `(rows, is_last)`; it ends with `is_last`, or its last yield.

    Raises InputError for what is not `(rows, is_last)`.
    """

    batch_size: int = Field(default=50, ge=1)
    """For `process` to read: rows that it yields at a time."""

    _is_loaded: bool = PrivateAttr(default=False)

    def close(self) -> None:
        if self._is_loaded:
            self._is_loaded = False
            self.unload()

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        """Yields `(rows, is_last)`: a list of mappings of columns to values, and whether no other rows follow.

        `offset` is 0 in every call: rows that an earlier run has done are told by their content.
        """
        raise NotImplementedError

    def columns(self) -> Columns:
        return tuple(self.outputs) or None

    def problems(self) -> list[str]:
        return _process_problems(type(self), GeneratorStep.process, "process(self, offset=0)", offset=0)

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        from raypipe.values.tabulate import to_table

        self.load()
        self._is_loaded = True
        number = 0
        for rows, is_last in map(_check_batch, self.process(offset=0)):
            names = tuple(name for name in dict.fromkeys(name for row in rows for name in row) if name not in RESERVED)
            if rows:
                start = number
                yield to_table(rows, names, lambda index, start=start: f"row {start + index + 1}")
                number += len(rows)
            if is_last:
                return


def _check_batch(given: Any) -> tuple[list[Mapping[str, Any]], bool]:
    if isinstance(given, tuple) and len(cast("tuple[Any, ...]", given)) == 2:
        rows, is_last = cast("tuple[Any, Any]", given)
        if isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in cast("list[Any]", rows)):
            return list(cast("list[Mapping[str, Any]]", rows)), bool(is_last)
    raise InputError("a GeneratorStep yields (rows, is_last), the rows as a list of mappings; correct its process")
