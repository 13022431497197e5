"""I make a step of a plain function.

I do not know what the function does. It gets the row, and the model if it asks one; what it returns is held
against what it declared, so a misspelt column fails the row instead of growing the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import new_class
from typing import Any, ClassVar, Literal, TypedDict, Unpack, cast, overload

from raypipe.contracts.imports import is_importable
from raypipe.contracts.llm import LLM, Caller
from raypipe.contracts.step import Columns, Output, Runs, Shape, Step
from raypipe.errors import RowError, SpecError
from raypipe.row import Values
from raypipe.steps.functions.batch_functions import batch_step, takes_rows
from raypipe.steps.functions.signatures import (
    Declaration,
    Function,
    OutputNames,
    Signature,
    is_async,
    output_types,
    unsound,
)


class FunctionStep(Step):
    """Base of the steps that `step` makes of functions."""

    function: ClassVar[Function]
    declared: ClassVar[Declaration]

    def __init__(self, name: str | None = None, /, **fields: Any) -> None:
        declared = self.declared
        given = {"llm": declared.llm} | fields
        if declared.scatter:
            given = {"scatter": True} | given
        if declared.asks and given["llm"] is None:
            called = type(self).__name__
            problem = f'asks a model but has none; write {called}(llm=LLM("provider/model"))'
            raise SpecError.of(f"step {name or called!r}", problem)
        super().__init__(name, **given)

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A step whose class a worker cannot import travels as its function."""
        kind = type(self)
        if is_importable(kind):
            return super().__reduce_ex__(protocol)
        return _restored, (kind.function, kind.declared, self.__getstate__())

    @property
    def shape(self) -> Shape:
        if self.scattered:
            return Shape.SCATTER
        return Shape.FILTER if self.declared.filter else Shape.MAP

    def reads(self) -> tuple[str, ...]:
        return self.declared.inputs or ()

    def needs(self) -> Columns:
        return self.declared.inputs

    def writes(self) -> dict[str, str]:
        return dict(self.declared.outputs or {})

    def columns_after(self, columns: Columns) -> Columns:
        return None if self.declared.outputs is None else super().columns_after(columns)

    def changes(self) -> Columns:
        return None if self.declared.outputs is None else super().changes()

    async def process_row(self, row: Values, llm: Caller) -> Output:
        made = self.function(row, llm) if self.declared.asks else self.function(row)
        if inspect.isasyncgen(made):
            return self._output([item async for item in made])
        return self._output(await made)

    def process_row_in_thread(self, row: Values) -> Output:
        made = self.function(row)
        return self._output(list(cast(Any, made)) if inspect.isgenerator(made) else made)

    def _output(self, made: Any) -> Output:
        if self.scattered:
            return self._rows(made)
        if self.declared.filter and (made is None or isinstance(made, bool)):
            return self._columns({}) if made else None
        return self._columns(made)

    def _rows(self, made: Any) -> list[Mapping[str, Any]]:
        if not isinstance(made, list | tuple):
            problem = (
                f"returned {_kind(made)}, but a step that scatters returns a list of mappings; return [] for no rows"
            )
            raise RowError(problem, kind="output")
        return [self._columns(item) for item in cast(Sequence[Any], made)]

    def _columns(self, made: Any) -> Mapping[str, Any]:
        if not isinstance(made, Mapping):
            raise RowError(
                f"returned {_kind(made)}, not a mapping of columns to values; {self._hint(made)}", kind="output"
            )
        columns, declared = cast(Mapping[str, Any], made), self.declared.outputs
        if declared is None or columns.keys() == declared.keys():
            return columns
        listed = ", ".join(repr(name) for name in declared)
        for name in declared:
            if name not in columns:
                raise RowError(f"returned no column {name!r} (declared: {listed})", kind="output")
        unknown = next(name for name in columns if name not in declared)
        raise RowError(f"returned the column {unknown!r}, which is not declared (declared: {listed})", kind="output")

    def _hint(self, made: Any) -> str:
        if isinstance(made, list | tuple):
            return "declare @step(scatter=True) to make a row of each item"
        if made is None:
            return "declare @step(filter=True) if None means that the row is dropped"
        return 'return for example {"answer": …}'


class StepOptions(TypedDict, total=False):
    """What `step` may be told."""

    inputs: Sequence[str] | None
    """Columns that the function is given; by default all."""
    outputs: OutputNames | None
    """Columns that it returns, or their types by name."""
    llm: LLM | None
    scatter: bool
    filter: bool
    step_type: Literal["normal", "global", "generator"]


@overload
def step(function: Function, /) -> type[Any]: ...
@overload
def step(**options: Unpack[StepOptions]) -> Callable[[Function], type[Any]]: ...
def step(
    function: Function | None = None, /, **options: Unpack[StepOptions]
) -> type[Any] | Callable[[Function], type[Any]]:
    """Make a step class of a function; used bare or called.

    `def f(row)` runs in a thread, `async def f(row)` in the event loop, `async def f(row, llm)` asks a model. It
    returns the new columns as a mapping; with `scatter` a list of them (or it yields them), with `filter` None
    drops the row. `inputs` are the columns it is given (by default all), `outputs` those it returns. The
    function itself stays reachable as `.function`.

    A function with a parameter annotated `StepInput` yields lists of rows for a batch of them, with
    `step_type="global"` for all rows; with `step_type="generator"` it yields `(rows, is_last)`. Its other parameters
    are options of the step. Raises SpecError for a function of another form.
    """

    def made(function: Function) -> type[Any]:
        inputs, outputs = options.get("inputs"), options.get("outputs")
        scatter, filter = options.get("scatter", False), options.get("filter", False)
        if "step_type" in options or takes_rows(function):
            return batch_step(function, inputs, outputs, options.get("step_type", "normal"))
        signature = Signature.of(function)
        if scatter and filter:
            raise unsound(function, "scatter and filter exclude each other; return an empty list to drop the row")
        named = None if inputs is None else tuple(inputs)
        scatters = scatter or signature.yields
        declared = Declaration(
            named, output_types(function, outputs), options.get("llm"), scatters, filter, signature.asks
        )
        return _class_of(function, declared)

    return made if function is None else made(function)


def _class_of(function: Function, declared: Declaration) -> type[FunctionStep]:
    namespace = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "function": staticmethod(function),
        "declared": declared,
        "runs": Runs.ROW if is_async(function) else Runs.THREAD,
    }
    made = new_class(function.__name__, (FunctionStep,), exec_body=lambda body: body.update(namespace))
    return cast(type[FunctionStep], made)


def _restored(function: Function, declared: Declaration, state: Any) -> FunctionStep:
    kind = _class_of(function, declared)
    made = kind.__new__(kind)
    made.__setstate__(state)
    return made


def _kind(made: Any) -> str:
    return "nothing" if made is None else f"a {type(made).__name__}"
