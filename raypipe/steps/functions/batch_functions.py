"""Makes a step of a function that is given many rows: one with a parameter annotated `StepInput`.

Knows nothing of what the function does. Its other parameters become options of the step.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, cast, get_type_hints

from pydantic import create_model

from raypipe.errors import SpecError
from raypipe.steps.functions.batch_steps import GeneratorStep, GlobalStep, Step, StepColumns, StepInput
from raypipe.steps.functions.pickled_steps import MadeOfFunction
from raypipe.steps.functions.signatures import unsound

_KINDS: dict[str, Any] = {"normal": Step, "global": GlobalStep, "generator": GeneratorStep}


def row_parameters(function: Any) -> list[inspect.Parameter]:
    """The parameters annotated `StepInput`, which are given many rows."""
    parameters = inspect.signature(function).parameters.values() if inspect.isfunction(function) else ()
    return [
        one
        for one in parameters
        if one.annotation is StepInput
        or (isinstance(one.annotation, str) and one.annotation.rpartition(".")[2] == "StepInput")
    ]


def batch_step(
    function: Callable[..., Any], inputs: StepColumns | None, outputs: StepColumns | None, step_type: str
) -> type[Any]:
    """A step class of a function. Raises SpecError for an unsound function or an unknown type of step."""
    if step_type not in _KINDS:
        problem = f"step_type is {step_type!r}; it is one of {', '.join(map(repr, _KINDS))}"
        raise SpecError.of(f"@step {function.__qualname__}", problem)
    rows = row_parameters(function)
    if len(rows) != (step_type != "generator"):
        got = ", ".join(one.name for one in rows) or "none"
        wanted = "no parameter" if step_type == "generator" else "exactly one parameter"
        raise unsound(function, f"needs {wanted} annotated StepInput as a {step_type} step; it has {got}")
    return _make_class(function, tuple(inputs or ()), tuple(outputs or ()), step_type)


def _make_class(
    function: Callable[..., Any], inputs: Sequence[str], outputs: Sequence[str], step_type: str
) -> type[Any]:
    kind, parameters, rows = _KINDS[step_type], inspect.signature(function).parameters, row_parameters(function)
    fields = _option_fields(function, kind, [one.name for one in rows])
    is_starred = any(one.kind is one.VAR_POSITIONAL for one in rows)
    takes_offset = "offset" in parameters

    def process(self: Any, *given: Any, offset: int = 0) -> Iterator[Any]:
        """Calls the function with the rows by name, or as its `*rows`, and with the step's options."""
        options = {name: getattr(self, name) for name in fields} | ({"offset": offset} if takes_offset else {})
        if is_starred or not rows:
            return function(*(given if is_starred else ()), **options)
        return function(**{rows[0].name: given[0]}, **options)

    base, options = cast("Any", (MadeOfFunction, kind)), cast("Any", fields)
    made: Any = create_model(function.__name__, __base__=base, __module__=function.__module__, **options)
    made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
    for name, value in {
        "process": process,
        "inputs": property(lambda self: list(inputs)),
        "outputs": property(lambda self: list(outputs)),
        "function": staticmethod(function),
        "made_by": (_make_class, (function, inputs, outputs, step_type)),
    }.items():
        setattr(made, name, value)
    return made


def _option_fields(function: Callable[..., Any], kind: Any, rows: Sequence[str]) -> dict[str, tuple[Any, Any]]:
    """Type and default of each parameter that is an option of the step. Raises SpecError for a name that is taken."""
    try:
        hints: Mapping[str, Any] = get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        hints = {}
    fields: dict[str, tuple[Any, Any]] = {}
    for name, one in inspect.signature(function).parameters.items():
        if name in rows or name == "offset" or one.kind not in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY):
            continue
        if name in kind.model_fields:
            raise unsound(function, f"has a parameter {name!r}, which is an option of every step; rename it")
        fields[name] = hints.get(name, Any), ... if one.default is one.empty else one.default
    return fields
