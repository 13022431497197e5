"""Writes a pipeline down as a file says it, without what is given under the name of a secret."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import suppress
from datetime import date, datetime
from enum import Enum
from functools import partial
from itertools import count
from typing import Any

import numpy as np
import yaml

from raypipe.contracts.imports import found_at
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, ModelPool, to_options
from raypipe.contracts.step import Collector, Step
from raypipe.errors import SpecError, Violation
from raypipe.graph.compile import name_steps
from raypipe.security.secrets import REDACTED, is_secret_option, redact

_NOT_WRITTEN = {"name", "llm", "base_dir"}
_ESCAPED = "\\U"
"""How libyaml begins an emoji: an escape that nobody can read."""


def described(name: str, description: str, collected: Collector) -> dict[str, Any]:
    """The plain mapping that a file holds."""
    names, _ = name_steps(collected.steps)
    if any(upstream is None for upstream, _, _ in collected.routes):
        problem = "has no step before it, so it cannot be written down; put a loader there"
        raise SpecError.of("routing", problem)
    models: dict[str, ModelOrPool] = {}
    called = {name: llm for name, llm in collected.models.items() if isinstance(llm, LLM | ModelPool)}
    steps: list[dict[str, Any]] = []
    previous: str | None = None
    for step in collected.steps:
        model = None if step.llm is None else _model_name(step.llm, models, called)
        steps.append(_entry(step, collected, names, previous, model))
        previous = names[id(step)]
    plain: dict[str, Any] = {"name": name}
    if description:
        plain["description"] = description
    if models:
        plain["models"] = {own: redact(_plain(to_options(llm))) for own, llm in models.items()}
    return plain | {"steps": steps}


def _entry(
    step: Step, collected: Collector, names: Mapping[int, str], previous: str | None, model: str | None
) -> dict[str, Any]:
    """What a file says of one step, in this order; `previous`: the name of the step that it says before."""
    kind = type(step)
    own = kind.__name__ if kind.__module__.startswith("raypipe.") else f"{kind.__module__}:{kind.__qualname__}"
    entry: dict[str, Any] = {"name": names[id(step)], "type": own}
    above = [names[id(a)] for a, b in collected.edges if b is step and id(a) in names]
    if above != ([previous] if previous is not None else []):
        entry["after"] = above
    routes = [
        {"to": [names[id(one)] for one in targets], **_plain(routing.model_dump(exclude_defaults=True))}
        for upstream, routing, targets in collected.routes
        if upstream is step
    ]
    entry |= {"routes": routes} if routes else {}
    entry |= {} if model is None else {"llm": model}
    for name, value in step.model_dump(by_alias=True, exclude_defaults=True, exclude=_NOT_WRITTEN).items():
        entry[name] = REDACTED if is_secret_option(name) and value else _plain(value)
    return entry


def to_yaml(plain: Mapping[str, Any]) -> str:
    """The mapping as YAML, by libyaml: 100,000 rows in a loader took longer to write down than to work on."""
    write: Any = partial(yaml.dump, dict(plain), sort_keys=False, allow_unicode=True, width=120)
    with suppress(UnicodeEncodeError):  # half of a character
        text = write(Dumper=getattr(yaml, "CSafeDumper", yaml.SafeDumper))
        if _ESCAPED not in text:
            return text
    return write(Dumper=yaml.SafeDumper)


def _model_name(llm: ModelOrPool, models: dict[str, ModelOrPool], called: Mapping[str, ModelOrPool]) -> str:
    """The name of a model in the file, which is that of the file it came from as long as it is the same."""
    for name, known in models.items():
        if known == llm:
            return name
    numbers = (f"model_{number}" for number in count(len(models) + 1))
    taken = {*models, *called}
    name = next((name for name, known in called.items() if known == llm), None) or next(
        name for name in numbers if name not in taken
    )
    models[name] = llm
    return name


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    for kind in (str, bytes, int, float):  # what is derived from them as they are
        if isinstance(value, kind) and not isinstance(value, bool):
            return kind(value)  # pyright: ignore[reportArgumentType]
    if isinstance(value, datetime):
        return datetime.fromisoformat(value.isoformat())
    if value is None or isinstance(value, bool | date):
        return value
    if callable(value):
        return f"{getattr(value, '__module__', '')}:{getattr(value, '__qualname__', repr(value))}"
    return str(value)


def unfindable(collected: Collector) -> list[Violation]:
    """What stands in no module that another program could import: a file can name it, and nobody can read the file."""
    names, _ = name_steps(collected.steps)
    found: list[Violation] = []
    for step in collected.steps:
        held = [type(step), *_functions(step.model_dump(exclude=_NOT_WRITTEN))]
        found += [Violation(f"step {names[id(step)]!r}", _cannot_be_found(one)) for one in held if not _is_found(one)]
    for upstream, routing, _ in collected.routes:
        if callable(routing.function) and not _is_found(routing.function):
            where = f"routing after {names[id(upstream)]!r}" if upstream is not None else "routing"
            found.append(Violation(where, _cannot_be_found(routing.function)))
    return found


def _functions(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _functions(item)
    elif callable(value):
        yield value


def _is_found(held: Any) -> bool:
    """Whether its dotted path leads to it, or to what a decorator made of it."""
    module, name = getattr(held, "__module__", None), getattr(held, "__qualname__", "")
    if module == "__main__" or not module or not name:
        return False
    with suppress(SpecError):
        found = found_at(f"{module}:{name}")
        return found is held or getattr(found, "function", None) is held
    return False


def _cannot_be_found(held: Any) -> str:
    said = f"{getattr(held, '__module__', '')}:{getattr(held, '__qualname__', repr(held))}"
    return f"{said} cannot be imported by a reader of the file; define it at the top of a module and import it"


def not_json(value: Any, place: str = "") -> Iterator[str]:
    """What JSON would say otherwise, each by its place: dates, and numbers that are none."""
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from not_json(item, f"{place}.{name}" if place else str(name))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from not_json(item, f"{place}[{index}]")
    elif isinstance(value, date) or (isinstance(value, float) and not math.isfinite(value)):
        yield f"{place} is {value!r}"
