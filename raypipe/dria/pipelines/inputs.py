"""I am what a step's `create_workflow` takes: the names of its inputs, and which of them may be left out.

I do not know where they come from.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Names of inputs."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    takes_all: bool = False
    """Whether inputs of any other name are taken too."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Inputs:
        """What a function takes by name."""
        parameters = inspect.signature(function).parameters.values()
        plain = [one for one in parameters if one.kind in _PLAIN]
        return cls(
            tuple(one.name for one in plain if one.default is one.empty),
            tuple(one.name for one in plain if one.default is not one.empty),
            any(one.kind is one.VAR_KEYWORD for one in parameters),
        )

    @property
    def first(self) -> str:
        """The input that takes a single value."""
        return next(iter((*self.required, *self.optional)), "result")

    def taken(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Those that are taken; others travel with the task and are not asked for."""
        names = {*self.required, *self.optional}
        return {name: value for name, value in given.items() if self.takes_all or name in names}

    def missing(self, given: Mapping[str, Any]) -> list[str]:
        """Those that must be given and are not."""
        return [name for name in self.required if name not in given]


def unfit(function: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Why values are not those that a function's annotations ask for, one sentence for each."""
    names = Inputs.of(function)
    for name in names.missing(given):
        yield f"has no {name!r}"
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):  # annotations of what is only imported for a type checker
        return
    kinds: dict[str, Any] = {name: (hints[name], ...) for name in names.taken(given) if name in hints}
    try:
        create_model("Inputs", **kinds)(**{name: given[name] for name in kinds})
    except ValidationError as error:
        for item in error.errors(include_url=False):
            yield f"{'.'.join(map(str, item['loc']))!r}: {item['msg']}, got {item['input']!r}"
