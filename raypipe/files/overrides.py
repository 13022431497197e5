"""Changes options of a pipeline: in its file before its steps are made, or of steps that are there already.

`--set` and `run(parameters=…)` are the same here: a path of names that leads to an option, and its new value. What is
changed is checked like what a user writes. Knows nothing of how steps are joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel

from raypipe.contracts.declaration import Spec
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, ModelPool, change_members, members_of
from raypipe.contracts.step import Step, collecting
from raypipe.errors import SpecError, Violation, nearest
from raypipe.files.schema import PipelineSpec, parse_value, spec_of
from raypipe.security.permissions import permissions_of, permitted
from raypipe.security.secrets import REDACTED, is_secret_name, redact

MODELS = "models"
"""Begins the path to an option of a model that the file names, unless a step has this name."""

Parameters = Mapping[str, Any]
"""Options by step name, or by model under `models`.

An option that has options of its own may be a mapping of those to change:
`{"answers": {"llm": {"seed": 1}}, "models": {"judge": {"max_tokens": 200}}}`."""


@dataclass(frozen=True)
class Override:
    """One option to change: `answers.llm.temperature`, or `models.judge.max_tokens`."""

    path: tuple[str, ...]
    value: Any
    where: str
    """How messages call it."""
    is_partial: bool = False
    """A mapping says which options of what stood there to change; otherwise it takes its place."""


def read_override(text: str) -> Override:
    """`step.option=value`, `step.option.inner=value` or `models.name.option=value`, the value read as YAML.

    Raises SpecError.
    """
    target, equals, value = text.partition("=")
    path = tuple(target.split("."))
    if not (equals and len(path) > 1 and all(path)):
        raise SpecError.of(f"--set {target}", "is not written step.option=value or models.name.option=value")
    read = parse_value(value)
    is_open = redact({path[-1]: read}) == {path[-1]: read} and not is_secret_name(path[-1])
    return Override(path, read, f"--set {text if is_open else f'{target}={REDACTED}'}")


def overrides_of(parameters: Parameters, steps: Sequence[str]) -> Iterator[Override]:
    """What `run(parameters=…)` changes in a pipeline that has these steps."""
    for name, options in parameters.items():
        if name != MODELS or name in steps:
            yield Override((name,), _mapping(options, name), f"parameters of step {name!r}", is_partial=True)
            continue
        for model, own in _mapping(options, name).items():
            yield Override((MODELS, model), own, f"parameters of model {model!r}", is_partial=True)


def _mapping(options: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(options, Mapping):
        raise SpecError.of(f"parameters of {name!r}", "must be a mapping of options to their values")
    return cast("Mapping[str, Any]", options)


def override_spec(spec: PipelineSpec, overrides: Sequence[Override]) -> PipelineSpec:
    """The file with options changed. Raises SpecError with all violations."""
    plain = [one.model_dump(exclude_none=True) for one in spec.steps]
    steps = {options.get("name") or options["type"]: options for options in reversed(plain)}
    models: dict[str, Any] = dict(spec.models)
    problems: list[Violation] = []
    for override in overrides:
        try:
            target, path = _target(override, steps, models)
            if target == MODELS:
                models[override.path[1]] = _changed_model(models[override.path[1]], path, override.value)
            elif path[0] == "llm" and len(path) > 1:
                model = _inlined(steps[target].get("llm"), models)
                steps[target]["llm"] = _changed_model(model, path[1:], override.value)
            else:
                steps[target].update(_changed(steps[target], path, override))
        except SpecError as error:
            problems += [Violation(override.where, found.problem) for found in error.violations]
    if problems:
        raise SpecError(violations=problems)
    where = "; ".join(override.where for override in overrides)
    return spec_of(spec.model_dump() | {"models": models, "steps": plain}, where) if overrides else spec


def override_steps(
    steps: Mapping[str, Step], models: Mapping[str, ModelOrPool], overrides: Sequence[Override]
) -> tuple[dict[str, Step], dict[str, ModelOrPool]]:
    """The steps that change, by name, and all named models as they are then. Raises SpecError with all violations."""
    changed, named = dict(steps), dict(models)
    problems: list[Violation] = []
    token = collecting.set(None)
    try:
        for override in overrides:
            try:
                target, path = _target(override, steps, models)
                if target == MODELS:
                    name = override.path[1]
                    old, others = named[name], [one for other, one in named.items() if other != name]
                    new = _changed(old, path, override)
                    named[name] = LLM(new) if isinstance(new, str) else new
                    changed |= _asking_instead(changed, old, named[name], others)
                else:
                    changed[target] = _changed_step(changed[target], path, override, named)
            except SpecError as error:
                problems += [Violation(override.where, found.problem) for found in error.violations]
    finally:
        collecting.reset(token)
    if problems:
        raise SpecError(violations=problems)
    return {name: step for name, step in changed.items() if step is not steps[name]}, named


def _target(override: Override, steps: Mapping[str, Any], models: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The step that is meant, or `models`, and the path inside. Raises SpecError."""
    name, *inside = override.path
    if name in steps:
        return name, tuple(inside)
    if name != MODELS:
        raise SpecError.of("", f"there is no step {name!r}{nearest(name, [*steps, *([MODELS] if models else [])])}")
    if inside[0] in models:
        return name, tuple(inside[1:])
    known = nearest(inside[0], list(models)) or "; the pipeline names none: set step.llm.option"
    raise SpecError.of("", f"there is no model {inside[0]!r}{known}")


def _changed(
    old: Any, path: tuple[str, ...], override: Override, made: Callable[[str, Any], Any] = lambda _, value: value
) -> Any:
    """`old`, plain or made, with what stands at `path` changed; `made` says what a value of an option becomes first."""
    value = override.value
    is_partial = override.is_partial and isinstance(old, Spec | ModelPool) and isinstance(value, Mapping)
    if not path and not is_partial:
        return value
    if isinstance(old, ModelPool):
        return change_members(old, lambda one: _changed(one, path, override))
    wanted = {path[0]: value} if path else cast("Mapping[str, Any]", value)
    if not isinstance(old, BaseModel):
        if old is not None and not isinstance(old, Mapping):
            problem = "has no options of its own here; give the whole value"
            raise SpecError.of("", f"option {override.path[-len(path) - 1]!r} {problem}")
        before = cast("Mapping[str, Any]", old or {})
        return {**before, path[0]: _changed(before.get(path[0]), path[1:], override)}
    fields = type(old).model_fields
    written = {name: field.alias or name for name, field in fields.items()}
    names = {alias: name for name, alias in written.items()}
    given = {written[name]: getattr(old, name) for name in old.model_fields_set}
    for option, new in wanted.items():
        inner = getattr(old, names.get(option, option), None) if option in fields or option in names else None
        own = Override(override.path, new, override.where, override.is_partial)
        given[written.get(option, option)] = made(option, _changed(inner, path[1:], own))
    return type(old)(**given)


def _changed_step(step: Step, path: tuple[str, ...], override: Override, models: Mapping[str, ModelOrPool]) -> Step:
    """The step made again; a model may be named by its name in the file, or by its URI."""

    def made(option: str, value: Any) -> Any:
        return (models.get(value) or LLM(value)) if option == "llm" and isinstance(value, str) else value

    permissions = permissions_of(step)
    with permitted(permissions and permissions.trusting(override.value)):
        return _changed(step, path, override, made)


def _asking_instead(
    steps: Mapping[str, Step], old: ModelOrPool, new: ModelOrPool, others: Sequence[ModelOrPool]
) -> dict[str, Step]:
    """The steps that ask the named model `old`, alone or in a pool, asking `new`.

    `others` are the other named models: they are not `old`, even where they are equal to it.
    """
    known = [member for other in others for member in members_of(other)]
    before, after = members_of(old), members_of(new)
    pairs = list(zip(before, after, strict=True)) if len(before) == len(after) else []

    def instead(member: LLM) -> LLM:
        found = next((to for one, to in pairs if one is member), None)
        if found is None and not any(one is member for one in known):
            found = next((to for one, to in pairs if one == member), None)
        return found or member

    changed: dict[str, Step] = {}
    for name, step in steps.items():
        if step.llm is not None:
            is_all = step.llm is old or (not pairs and step.llm == old)
            llm = new if is_all else change_members(step.llm, instead)
            changed |= {name: step.model_copy(update={"llm": llm})} if llm != step.llm else {}
    return changed


def _inlined(llm: Any, models: Mapping[str, Any]) -> Any:
    """What a step says of its model, with the options of the models that it names. Raises SpecError."""
    if isinstance(llm, list):
        return [_inlined(one, models) for one in cast("list[Any]", llm)]
    if not isinstance(llm, str):
        return llm
    if llm not in models and "/" not in llm:
        raise SpecError.of("", f"there is no model {llm!r}{nearest(llm, list(models))}")
    return models.get(llm, {"uri": llm})


def _changed_model(model: Any, path: tuple[str, ...], value: Any) -> Any:
    """A model of a file with an option changed; of a pool, that of each member."""
    if not path:
        return value
    if isinstance(model, list):
        return [_changed_model(one, path, value) for one in cast("list[Any]", model)]
    changed = _changed(model, path, Override(("llm", *path), value, ""))
    return changed | ({"also": _changed_model(changed["also"], path, value)} if changed.get("also") else {})


def describe_options(made: Spec) -> list[dict[str, Any]]:
    """What may be changed: for each option its name, whether it may be left out, and its value now."""
    found: list[dict[str, Any]] = []
    for name, field in type(made).model_fields.items():
        if name == "name":
            continue
        value = getattr(made, name)
        is_required = field.is_required() or name in type(made).late
        own: dict[str, Any] = {"name": field.alias or name, "optional": not is_required}
        is_nested = isinstance(value, Spec)
        found.append(own | ({"runtime_parameters_info": describe_options(value)} if is_nested else {"value": value}))
    return found
