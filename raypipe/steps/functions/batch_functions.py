"""I make a step of a function that is given many rows: one with a parameter annotated `StepInput`.

I do not know what the function does. Its other parameters become options of the step; a step whose class no worker
can import travels as its function.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, cast, get_type_hints

from pydantic import create_model

from raypipe.contracts.imports import is_importable
from raypipe.errors import SpecError
from raypipe.steps.functions.batch_steps import GeneratorStep, GlobalStep, Step, StepColumns, StepInput
from raypipe.steps.functions.signatures import unsound

StepType = Literal["normal", "global", "generator"]
_KINDS: dict[str, Any] = {"normal": Step, "global": GlobalStep, "generator": GeneratorStep}
_UNTOLD = inspect.Parameter.empty


def takes_rows(function: Any) -> bool:
    """Whether a function has a parameter annotated `StepInput`."""
    return inspect.isfunction(function) and bool(_inputs_of(function))


def _inputs_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    return [one for one in inspect.signature(function).parameters.values() if _is_input(one.annotation)]


def _is_input(annotation: Any) -> bool:
    return annotation is StepInput or (isinstance(annotation, str) and annotation.rpartition(".")[2] == "StepInput")


def batch_step(
    function: Callable[..., Any], inputs: StepColumns | None, outputs: StepColumns | None, step_type: str
) -> type[Any]:
    """A step class of a function. Raises SpecError for an unsound function or an unknown type of step."""
    if step_type not in _KINDS:
        problem = f"step_type is {step_type!r}; it is one of {', '.join(map(repr, _KINDS))}"
        raise SpecError.of(f"@step {function.__qualname__}", problem)
    rows = _inputs_of(function)
    if len(rows) != (step_type != "generator"):
        said = "none" if not rows else ", ".join(one.name for one in rows)
        wanted = "no parameter" if step_type == "generator" else "exactly one parameter"
        raise unsound(function, f"has {wanted} annotated StepInput when it is a {step_type} step; it has {said}")
    return _class_of(function, tuple(inputs or ()), tuple(outputs or ()), step_type)


def _class_of(function: Callable[..., Any], inputs: Sequence[str], outputs: Sequence[str], step_type: str) -> type[Any]:
    kind = _KINDS[step_type]
    rows = [one.name for one in _inputs_of(function)]
    own = {
        name: one
        for name, one in inspect.signature(function).parameters.items()
        if name not in rows and name != "offset" and one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)
    }
    clash = next((name for name in own if name in kind.model_fields), None)
    if clash is not None:
        raise unsound(function, f"has a parameter {clash!r}, which is an option of every step; rename it")
    hints = _hints(function)
    fields = {name: (hints.get(name, Any), ... if one.default is _UNTOLD else one.default) for name, one in own.items()}
    is_starred = any(one.kind is one.VAR_POSITIONAL for one in _inputs_of(function))
    takes_offset = "offset" in inspect.signature(function).parameters

    def process(self: Any, *given: Any, offset: int = 0) -> Iterator[Any]:
        options = {name: getattr(self, name) for name in own}
        positional = given if is_starred else ()
        named = {} if is_starred or not rows else {rows[0]: given[0]}
        return function(*positional, **named, **options, **({"offset": offset} if takes_offset else {}))

    def reduced(self: Any, protocol: Any) -> Any:
        if is_importable(type(self)):
            return super(made, self).__reduce_ex__(protocol)
        return _restored, (function, inputs, outputs, step_type, self.__getstate__())

    made: Any = create_model(function.__name__, __base__=kind, __module__=function.__module__, **cast("Any", fields))
    made.__qualname__, made.__doc__ = function.__qualname__, function.__doc__
    for name, value in {
        "process": process,
        "inputs": property(lambda self: list(inputs)),
        "outputs": property(lambda self: list(outputs)),
        "function": staticmethod(function),
        "__reduce_ex__": reduced,
    }.items():
        setattr(made, name, value)
    return made


def _hints(function: Callable[..., Any]) -> Mapping[str, Any]:
    try:
        return get_type_hints(function, include_extras=True)
    except (NameError, TypeError, AttributeError):  # names that only a type checker imports
        return {}


def _restored(
    function: Callable[..., Any], inputs: Sequence[str], outputs: Sequence[str], step_type: str, state: Any
) -> Any:
    kind: Any = _class_of(function, inputs, outputs, step_type)
    made = kind.__new__(kind)
    made.__setstate__(state)
    return made
