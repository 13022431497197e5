"""I am the steps whose one method is given many rows: a batch, or all rows of a run, or none yet.

I do not know how rows travel. A batch gives one row back for each row, in order; what must see all rows, or makes
more or fewer of them, is a `GlobalStep`.
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
"""Begins the name of a column whose place another one takes while a `GlobalStep` works; no column of ours has it."""


class _Declared(Base):
    """What all of them say of themselves: `inputs` and `outputs`."""

    @property
    def inputs(self) -> StepColumns:
        """Columns that are read."""
        return []

    @property
    def outputs(self) -> StepColumns:
        """Columns that are written."""
        return []

    def load(self) -> None:
        """Called once in each worker before the first rows."""

    def unload(self) -> None:
        """Called once in each worker that was loaded, after the last rows; what it raises changes no result."""

    def process(self, *inputs: Any) -> Iterator[Any]:
        """Yields rows. What several `yield`s give is taken together."""
        raise NotImplementedError

    def open(self) -> None:
        self.load()

    def close(self) -> None:
        self.unload()

    def required(self) -> tuple[str, ...]:
        """The columns without which it cannot work."""
        declared = self.inputs
        if isinstance(declared, Mapping):
            return tuple(name for name, is_required in declared.items() if is_required)
        return tuple(declared)

    def writes(self) -> dict[str, str]:
        return dict.fromkeys(self.outputs, "")

    def problems(self) -> list[str]:
        own = list(self.inputs)
        known = ", ".join(map(repr, own))
        unknown = [name for name in self.input_mappings if own and name not in own]
        found = [f"has input_mappings for {n!r}, but its inputs are: {known}{nearest(n, own)}" for n in unknown]
        return found + _process_problems(type(self), _Declared.process, "process(self, inputs)", [])


def _process_problems(kind: type[Any], unwritten: Any, form: str, *given: Any, **named: Any) -> list[str]:
    """Why the `process` of a class cannot be called as it will be."""
    if kind.process is unwritten:
        return [f"has no method process; write {form}"]
    process = getattr_static(kind, "process")
    if not isfunction(process):  # a static method, or what a library made of it
        return []
    problem = call_problem(process, form, None, *given, **named)
    return [] if problem is None else [problem]


class Step(_Declared):
    """A step with `process(self, inputs)`: it is given up to `input_batch_size` rows and yields as many.

    A batch that raises is given again row by row, so that one bad row fails alone.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    is_given_batches: ClassVar[bool] = True

    def reads(self) -> tuple[str, ...]:
        return self.required()

    def needs(self) -> Columns:
        return None

    def changes(self) -> Columns:
        return None

    def process_batch_in_thread(self, rows: Sequence[Values]) -> list[Output]:
        # Copies: what it changes in its rows must neither be missed nor stay when the rows are tried apart.
        given = deepcopy([dict(row) for row in rows])
        made = [row for part in self.process(given) for row in part]
        if len(made) != len(rows):
            problem = f"process gave {len(made)} rows for {len(rows)}; a step gives as many as it gets"
            raise RowError(f"{problem}: expand lists with ExpandColumns, or write a GlobalStep", kind="output")
        outputs: list[Output] = [{**old, **new} for old, new in zip(rows, made, strict=True)]
        declared = self.outputs
        wanted = [name for name in declared if not isinstance(declared, Mapping) or declared[name]]
        for output in outputs:
            missing = next((name for name in wanted if name not in (output or {})), None)
            if missing is not None:
                raise RowError(f"process gave no column {missing!r}, which is one of its outputs", kind="output")
        return outputs

    def process_row_in_thread(self, row: Values) -> Output:
        return self.process_batch_in_thread([row])[0]


class GlobalStep(_Declared):
    """A step with `process(self, inputs)` that is given all rows at once and yields any rows."""

    runs: ClassVar[Runs] = Runs.THREAD
    is_given_all: ClassVar[bool] = True

    @property
    def shape(self) -> Shape:
        return Shape.SCATTER

    def reads(self) -> tuple[str, ...]:
        return (_ROWS,)

    def problems(self) -> list[str]:
        found = super().problems()
        if _ROWS in self.input_mappings:
            found.append(
                f"has input_mappings for {_ROWS!r}, the name that all rows together have; call its input otherwise"
            )
        return found

    def consumes(self) -> tuple[str, ...]:
        return (_ROWS,)

    def columns_after(self, columns: Columns) -> Columns:
        return None

    def changes(self) -> Columns:
        return None

    def process_row_in_thread(self, row: Values) -> Output:
        names = self.input_mappings
        if not names:
            return list(_rows_of(self.process([dict(one) for one in row[_ROWS]])))
        written = self.writes()
        kept = [name for name in names if name in written]
        given = [_mapped(one, names, kept) for one in row[_ROWS]]
        back = {name: column for name, column in names.items() if name not in written}
        return [_mapped_back(made, back, names) for made in _rows_of(self.process(given))]


def _rows_of(parts: Any) -> Iterator[Any]:
    """The rows that `process` gives. Raises RowError where it gives something else than lists of them."""
    if not isinstance(parts, Iterable) or isinstance(parts, str | bytes | Mapping):
        raise RowError(f"process gave {type(cast('Any', parts)).__name__}; it yields lists of rows", kind="output")
    for part in cast("Iterable[Any]", parts):
        if not isinstance(part, Iterable) or isinstance(part, str | bytes | Mapping):
            said = f"process yielded {type(cast('Any', part)).__name__}; each yield is a list of rows"
            raise RowError(said, kind="output")
        yield from cast("Iterable[Any]", part)


def _mapped(row: Values, names: Mapping[str, str], written: Sequence[str]) -> dict[str, Any]:
    """A row with its columns under the step's names. A column that has such a name already is put aside.

    The column behind a name that the step writes anew stays, since the new value does not go back there.
    """
    gone = {column for name, column in names.items() if name not in written}
    kept = {_ASIDE + name if name in names else name: value for name, value in row.items() if name not in gone}
    return kept | {name: row.get(column) for name, column in names.items()}


def _mapped_back(made: Any, names: Mapping[str, str], all_names: Iterable[str]) -> Any:
    """A row with its columns under the pipeline's names, and those that were put aside where they were."""
    if not isinstance(made, Mapping):
        return made
    row = cast("Mapping[Any, Any]", made)
    were = {_ASIDE + name: name for name in all_names}
    found = {names.get(name, name): value for name, value in row.items() if name not in were}
    return {were[name]: row[name] for name in row if name in were} | found


class GeneratorStep(Source):
    """A source with `process(self, offset=0)` that yields `(rows, is_last)`; it also ends where it yields no more."""

    batch_size: int = Field(default=50, ge=1)

    @property
    def outputs(self) -> StepColumns:
        """Columns that are written."""
        return []

    _is_loaded: bool = PrivateAttr(default=False)

    def load(self) -> None:
        """Called once before the first rows."""

    def unload(self) -> None:
        """Called once after the last rows that are wanted; what it raises changes no result."""

    def close(self) -> None:
        if self._is_loaded:
            self._is_loaded = False
            self.unload()

    def process(self, offset: int = 0) -> GeneratorStepOutput:
        raise NotImplementedError

    def columns(self) -> Columns:
        return tuple(self.outputs) or None

    def problems(self) -> list[str]:
        return _process_problems(type(self), GeneratorStep.process, "process(self, offset=0)", offset=0)

    def units(self) -> list[Unit]:
        return [Unit("")]

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        from raypipe.values.tabulate import to_table

        self.load()
        self._is_loaded = True
        number = 0
        for given in self.process(offset=0):
            rows, is_last = _checked(given)
            names = tuple(name for name in dict.fromkeys(name for row in rows for name in row) if name not in RESERVED)
            if rows:
                start = number
                yield to_table(rows, names, lambda index, start=start: f"row {start + index + 1}")
                number += len(rows)
            if is_last:
                return


def _checked(given: Any) -> tuple[list[Mapping[str, Any]], bool]:
    if isinstance(given, tuple) and len(cast("tuple[Any, ...]", given)) == 2:
        rows, is_last = cast("tuple[Any, Any]", given)
        if isinstance(rows, list | tuple) and all(isinstance(row, Mapping) for row in cast("list[Any]", rows)):
            return list(cast("list[Mapping[str, Any]]", rows)), bool(is_last)
    raise InputError("a GeneratorStep yields (rows, is_last), the rows as a list of mappings; mend its process")
