"""Makes a step of a plain function.

Knows nothing of what the function does. It gets the row, and the model if it asks one; what it returns is checked
against what it declared, so a misspelt column fails the row instead of growing the table.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import new_class
from typing import Any, ClassVar, Literal, TypedDict, Unpack, cast, overload

from raypipe.contracts.llm import LLM, Caller
from raypipe.contracts.step import Output, Runs, Shape, Step
from raypipe.errors import RowError, SpecError
from raypipe.row import Values
from raypipe.steps.functions.batch_functions import batch_step, row_parameters
from raypipe.steps.functions.pickled_steps import MadeOfFunction
from raypipe.steps.functions.signatures import (
    Declaration,
    Function,
    OutputNames,
    check_signature,
    is_async,
    output_types,
    unsound,
)


class FunctionStep(MadeOfFunction, Step):
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

    @property
    def shape(self) -> Shape:
        if self.scattered:
            return Shape.SCATTER
        return Shape.FILTER if self.declared.filter else Shape.MAP

    async def process_row(self, row: Values, llm: Caller) -> Output:
        made = self.function(row, llm) if self.declared.asks else self.function(row)
        if inspect.isasyncgen(made):
            return self._output([item async for item in made])
        return self._output(await made)

    def process_row_in_thread(self, row: Values) -> Output:
        made = self.function(row)
        return self._output(list(cast(Any, made)) if inspect.isgenerator(made) else made)

    def _output(self, made: Any) -> Output:
        """What the function returned. Raises RowError for what it did not declare."""
        if self.scattered:
            if isinstance(made, list | tuple):
                return [self._columns(item) for item in cast(Sequence[Any], made)]
            got = "nothing" if made is None else f"a {type(made).__name__}"
            problem = "but a step that scatters returns a list of mappings; return [] for no rows"
            raise RowError(f"returned {got}, {problem}", kind="output")
        if self.declared.filter and (made is None or isinstance(made, bool)):
            return self._columns({}) if made else None
        return self._columns(made)

    def _columns(self, made: Any) -> Mapping[str, Any]:
        if not isinstance(made, Mapping):
            got, hint = f"a {type(made).__name__}", 'return for example {"answer": …}'
            if isinstance(made, list | tuple):
                hint = "declare @step(scatter=True) to make a row of each item"
            elif made is None:
                got, hint = "nothing", "declare @step(filter=True) if None means that the row is dropped"
            raise RowError(f"returned {got}, not a mapping of columns to values; {hint}", kind="output")
        columns, declared = cast(Mapping[str, Any], made), self.declared.outputs
        if declared is None or columns.keys() == declared.keys():
            return columns
        listed = ", ".join(repr(name) for name in declared)
        for name in declared:
            if name not in columns:
                raise RowError(f"returned no column {name!r} (declared: {listed})", kind="output")
        unknown = next(name for name in columns if name not in declared)
        raise RowError(f"returned the column {unknown!r}, which is not declared (declared: {listed})", kind="output")


class StepOptions(TypedDict, total=False):
    """Options of `step`."""

    inputs: Sequence[str] | None
    """Columns that the function is given; by default all."""
    outputs: OutputNames | None
    """Columns that it returns, or their types by name; by default any."""
    llm: LLM | None
    """The model of every step of this class that is given none."""
    scatter: bool
    """The function returns or yields mappings, and each becomes a row."""
    filter: bool
    """A row for which the function returns None or False is dropped."""
    step_type: Literal["normal", "global", "generator"]
    """Of a function of many rows: whether it is given batches, all rows, or makes rows of its own."""


@overload
def step(function: Function, /) -> type[Any]: ...
@overload
def step(**options: Unpack[StepOptions]) -> Callable[[Function], type[Any]]: ...
def step(
    function: Function | None = None, /, **options: Unpack[StepOptions]
) -> type[Any] | Callable[[Function], type[Any]]:
    """Make a step class of a function; used bare (`@step`) or called (`@step(outputs=["answer"])`).

    `def f(row)` runs in a thread, `async def f(row)` in the event loop, `async def f(row, llm)` asks a model. It
    returns the new columns as a mapping; with `scatter` a list of them (or it yields them), with `filter` None
    drops the row. The function itself stays reachable as `.function`.

    A function with a parameter annotated `StepInput` yields lists of rows for a batch of them, with
    `step_type="global"` for all rows; with `step_type="generator"` it yields `(rows, is_last)`. Its other parameters
    are options of the step. Raises SpecError for a function of another form; a row for which the function raises an
    error, or returns columns that it did not declare, fails.
    """

    def make(function: Function) -> type[Any]:
        inputs, outputs = options.get("inputs"), options.get("outputs")
        scatter, filter = options.get("scatter", False), options.get("filter", False)
        if "step_type" in options or row_parameters(function):
            return batch_step(function, inputs, outputs, options.get("step_type", "normal"))
        asks = check_signature(function)
        if scatter and filter:
            raise unsound(function, "scatter and filter exclude each other; return an empty list to drop the row")
        named = None if inputs is None else tuple(inputs)
        scatters = scatter or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function)
        types = output_types(function, outputs)
        return _make_class(function, Declaration(named, types, options.get("llm"), scatters, filter, asks))

    return make if function is None else make(function)


def _make_class(function: Function, declared: Declaration) -> type[FunctionStep]:
    namespace = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "function": staticmethod(function),
        "declared": declared,
        "read_columns": declared.inputs or (),
        "written_columns": declared.outputs or {},
        "writes_unknown": declared.outputs is None,
        "needs_whole_row": declared.inputs is None,
        "runs": Runs.ROW if is_async(function) else Runs.THREAD,
    }
    made: Any = new_class(function.__name__, (FunctionStep,), exec_body=lambda body: body.update(namespace))
    made.made_by = _make_class, (function, declared)
    return made
