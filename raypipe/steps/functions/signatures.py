"""Reads what a function declares: how it is called and which columns it returns.

Knows nothing of the steps that are made of it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin

from raypipe.contracts.llm import LLM
from raypipe.errors import SpecError

Function = Callable[..., Any]
OutputNames = Sequence[str] | Mapping[str, Any]
"""Names of the new columns, or their types by name."""

_TYPES: dict[Any, str] = {str: "string", int: "int64", float: "double", bool: "bool", bytes: "binary"}


@dataclass(frozen=True, slots=True)
class Declaration:
    """How a function is called and what it returns."""

    inputs: tuple[str, ...] | None
    """Columns that it is given; `None` for all of them."""
    outputs: dict[str, str] | None
    """Columns that it returns and their Arrow types; `None` where it declares none."""
    llm: LLM | None
    scatter: bool
    filter: bool
    asks: bool
    """Whether it has a second parameter, the model."""


def check_signature(function: Function) -> bool:
    """Whether a function asks a model: it has a second parameter. Raises SpecError where it cannot be given a row."""
    if not inspect.isfunction(function):
        raise unsound(function, "is not a function; decorate a def or async def")
    parameters = [p.name for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    if len(parameters) not in (1, 2):
        raise unsound(function, f"takes ({', '.join(parameters)}); it must take (row) or (row, llm)")
    if len(parameters) > 1 and not is_async(function):
        raise unsound(function, "asks a model and so must be async; write async def and await llm(…)")
    return len(parameters) > 1


def is_async(function: Function) -> bool:
    """Whether what it returns is awaited, or iterated asynchronously."""
    return inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)


def output_types(function: Function, outputs: OutputNames | None) -> dict[str, str] | None:
    """Arrow type of each declared column; `""` where it is found from the values. Raises SpecError for plain text."""
    if outputs is None:
        return None
    if isinstance(outputs, str):
        raise unsound(function, f"outputs must be a list of names; write outputs=[{outputs!r}]")
    if not isinstance(outputs, Mapping):
        return dict.fromkeys(outputs, "")
    return {name: _type_name(kind) for name, kind in outputs.items()}


def _type_name(kind: Any) -> str:
    """The Arrow type of a Python type; text names an Arrow type itself."""
    if isinstance(kind, str):
        return kind
    if get_origin(kind) is list:
        inner = _type_name(get_args(kind)[0])
        return f"list<{inner}>" if inner else ""
    return _TYPES.get(kind, "")


def unsound(function: Any, problem: str) -> SpecError:
    """The error of a function that cannot become a step."""
    name = getattr(function, "__qualname__", repr(function))
    return SpecError.of(f"@step {name}", problem)


def call_problem(method: Callable[..., Any], form: str, *given: Any, **named: Any) -> str | None:
    """Why a method cannot be called with these arguments (`self` among them); `form` is how to write it."""
    signature = inspect.signature(method)
    written = f"{method.__name__}({', '.join(map(str, signature.parameters))})"
    try:
        signature.bind(*given, **named)
    except TypeError as error:
        return f"{written} cannot be called ({error}); write {form}, and make what else it needs options of the step"
    return f"{written} is async and would not be awaited; write a plain {form}" if is_async(method) else None
