"""The inputs of a step: the parameters of its `create_workflow`. Knows nothing of where their values come from."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from pydantic import ValidationError, create_model

_PLAIN = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


@dataclass(frozen=True, slots=True)
class Inputs:
    """Names of parameters that are given by name."""

    required: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    takes_all: bool = False
    """Whether other names are accepted too."""

    @classmethod
    def of(cls, function: Callable[..., Any]) -> Inputs:
        """The inputs of a function."""
        parameters = inspect.signature(function).parameters.values()
        plain = [one for one in parameters if one.kind in _PLAIN]
        return cls(
            tuple(one.name for one in plain if one.default is one.empty),
            tuple(one.name for one in plain if one.default is not one.empty),
            any(one.kind is one.VAR_KEYWORD for one in parameters),
        )

    def select(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """The values that the function accepts; others stay with the task unused."""
        names = {*self.required, *self.optional}
        return {name: value for name, value in given.items() if self.takes_all or name in names}

    def missing(self, given: Mapping[str, Any]) -> list[str]:
        """Required inputs that are not given."""
        return [name for name in self.required if name not in given]


def check_inputs(function: Callable[..., Any], given: Mapping[str, Any]) -> Iterator[str]:
    """Why values do not fit a function's parameters and their annotations, one sentence for each."""
    names = Inputs.of(function)
    for name in names.missing(given):
        yield f"has no {name!r}"
    try:
        hints = get_type_hints(function)
    except (NameError, TypeError):  # annotations of what is only imported for a type checker
        return
    kinds: dict[str, Any] = {name: (hints[name], ...) for name in names.select(given) if name in hints}
    try:
        create_model("Inputs", **kinds)(**{name: given[name] for name in kinds})
    except ValidationError as error:
        for item in error.errors(include_url=False):
            yield f"{'.'.join(map(str, item['loc']))!r}: {item['msg']}, got {item['input']!r}"
