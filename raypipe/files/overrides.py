"""I change options of steps that were made already, as `run(parameters=…)` and `--set` ask for it.

I do not know how steps are joined. A step is made again with its changed options, so that they are checked like
those a user writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from pydantic import BaseModel

from raypipe.contracts.declaration import Spec
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelPool, change_first, first_of
from raypipe.contracts.step import Step, collecting
from raypipe.errors import SpecError, Violation, nearest
from raypipe.graph.graph import Graph
from raypipe.security.permissions import permissions_of, permitted

_OFFLINE = "offline/"

Parameters = Mapping[str, Mapping[str, Any]]
"""Options by step name; an option that has options of its own may be a mapping: `{"answers": {"llm": {"seed": 1}}}`."""


def with_parameters(steps: Mapping[str, Step], parameters: Parameters) -> dict[str, Step]:
    """The steps that change, by name. Raises SpecError with every unknown step and option."""
    problems: list[Violation] = []
    changed: dict[str, Step] = {}
    token = collecting.set(None)
    try:
        for name, options in parameters.items():
            where = f"parameters of step {name!r}"
            if name not in steps:
                problems.append(Violation("parameters", f"there is no step {name!r}{nearest(name, list(steps))}"))
                continue
            try:
                changed[name] = _changed(steps[name], options, where)
            except SpecError as error:
                problems.extend(Violation(where, found.problem) for found in error.violations)
    finally:
        collecting.reset(token)
    if problems:
        raise SpecError(violations=problems)
    return changed


def _changed(step: Step, options: Mapping[str, Any], where: str) -> Step:
    fields = type(step).model_fields
    names = {field.alias or name: name for name, field in fields.items()} | {name: name for name in fields}
    given: dict[str, Any] = {}
    for option, value in options.items():
        if option not in names:
            known = nearest(option, list(names))
            raise SpecError.of(where, f"there is no parameter {option!r}{known}")
        given[fields[names[option]].alias or names[option]] = _inner(getattr(step, names[option]), value)
    written = {fields[name].alias or name: getattr(step, name) for name in step.model_fields_set}
    permissions = permissions_of(step)
    with permitted(permissions and permissions.trusting(options)):
        return type(step)(**{**written, **given})


def _inner(old: Any, value: Any) -> Any:
    """A mapping changes the options of what stood there; anything else takes its place."""
    if isinstance(old, LLM | ModelPool) and isinstance(value, str):
        return LLM(value)
    if isinstance(old, ModelPool) and isinstance(value, Mapping):
        return change_first(old, lambda first: _inner(first, value))
    if isinstance(old, Spec) and isinstance(value, Mapping):
        said = {name: getattr(old, name) for name in old.model_fields_set}
        return type(old)(**{**said, **cast("Mapping[str, Any]", value)})
    return value


def made_again(old: Any, path: Sequence[str], value: Any, where: str) -> Any:
    """`old` with the option at `path` changed, checked like one that a user writes."""
    if not path:
        return value
    if isinstance(old, BaseModel):
        fields = type(old).model_fields
        written = {name: field.alias or name for name, field in fields.items()}
        given = {written[name]: getattr(old, name) for name in old.model_fields_set}
        inner = made_again(getattr(old, path[0], None), path[1:], value, where)
        return type(old)(**{**given, written.get(path[0], path[0]): inner})
    if isinstance(old, ModelPool):
        return change_first(old, lambda first: made_again(first, path, value, where))
    if old is None or isinstance(old, Mapping):
        inner = cast(Mapping[str, Any], old or {})
        return {**inner, path[0]: made_again(inner.get(path[0]), path[1:], value, where)}
    raise SpecError.of(where, f"{old!r} has no option {path[0]!r}")


def played(graph: Graph) -> Graph:
    """The graph of a dry run: a stand-in in the place of each model; those for different models answer differently."""
    token = collecting.set(None)
    try:
        steps = {
            name: step if step.llm is None else step.model_copy(update={"llm": _understudy(first_of(step.llm))})
            for name, step in graph.steps.items()
        }
    finally:
        collecting.reset(token)
    return Graph(steps, graph.edges, graph.flows)


def _understudy(llm: LLM) -> LLM:
    return LLM(_OFFLINE + llm.uri.removeprefix(_OFFLINE), temperature=llm.temperature)


def described_options(made: Spec) -> list[dict[str, Any]]:
    """Name, whether it may be left out, and the value that it has now, for each option."""
    found: list[dict[str, Any]] = []
    for name, field in type(made).model_fields.items():
        if name == "name":
            continue
        value = getattr(made, name)
        is_required = field.is_required() or name in type(made).late
        own: dict[str, Any] = {"name": field.alias or name, "optional": not is_required}
        if isinstance(value, Spec):
            found.append(own | {"runtime_parameters_info": described_options(value)})
        else:
            found.append(own | {"value": value})
    return found
