"""Makes the steps and edges that a file describes. Knows nothing of what is done with them.

All that is wrong with the file is reported at once, each problem with its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from raypipe.contracts.imports import imported_function
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, from_options, make_pool
from raypipe.contracts.step import Collector, Source, Step, collecting
from raypipe.errors import SpecError, Violation, nearest
from raypipe.files.schema import PipelineSpec, place
from raypipe.graph.branching import Routing
from raypipe.models.reach import reachable
from raypipe.security.permissions import Permissions, permitted
from raypipe.security.secrets import REDACTED, is_redacted
from raypipe.steps import resolve

_LEFT_OUT = (
    f"holds {REDACTED} in place of a secret that was not written down; name the pipeline that it was written from, "
    "or give the secret again with --set"
)
_ANY_MODEL = "offline/stand-in"
"""Stands for a model that could not be made, so that the rest of its step is checked too."""


def collected_from(spec: PipelineSpec, base: Path, permissions: Permissions) -> Collector:
    """Steps, edges and routes; `base` is the folder that relative paths start from.

    Nothing is imported, read or named beyond what is permitted. Raises SpecError.
    """
    with permitted(permissions):
        return _collected(spec, base)


def _collected(spec: PipelineSpec, base: Path) -> Collector:
    problems = [Violation("the file", _LEFT_OUT)] if is_redacted(spec.model_dump()) else []
    models = _models(spec, problems)
    collector = Collector(models={**models})
    token = collecting.set(collector)
    try:
        made = [_step(number, spec, models, base, problems) for number in range(len(spec.steps))]
        by_name = {one.name: step for one, step in zip(spec.steps, made, strict=True) if one.name and step}
        for number, step in enumerate(made):
            for above in _above(number, spec, made, by_name, problems):
                if step is not None:
                    above.connect(step)
        for number, step in enumerate(made):
            if step is not None:
                collector.routes += _routes(number, spec, step, by_name, problems)
    finally:
        collecting.reset(token)
    if problems:
        raise SpecError(violations=problems)
    return collector


def _routes(
    number: int, spec: PipelineSpec, step: Step, by_name: dict[str, Step], problems: list[Violation]
) -> list[tuple[Step | None, Any, list[Step]]]:
    """The choices among the steps behind step `number`."""
    found: list[tuple[Step | None, Any, list[Step]]] = []
    where = f"{place(number, spec.steps[number].name)} option 'routes'"
    for said in spec.steps[number].routes:
        options = dict(said)
        targets = options.pop("to", [])
        unknown = next((name for name in targets if name not in by_name), None)
        if unknown is not None or not targets:
            problem = f"there is no step {unknown!r}{nearest(str(unknown), list(by_name))}" if targets else "needs `to`"
            problems.append(Violation(where, problem))
            continue
        try:
            found.append((step, Routing(**options), [by_name[name] for name in targets]))
        except SpecError as error:
            # The name of what an option names is said too.
            for one in error.violations:
                problem = str(one) if one.where.startswith("dotted path") else one.problem
                problems.append(Violation(where, problem))
    return found


def _models(spec: PipelineSpec, problems: list[Violation]) -> dict[str, ModelOrPool]:
    models: dict[str, ModelOrPool] = {}
    for name, options in spec.models.items():
        try:
            made = from_options(options)
        except (SpecError, TypeError) as error:
            problems.append(Violation(f"model {name!r}", str(error).removeprefix("LLM: ")))
            continue
        try:
            models[name] = reachable(made, f"model {name!r}")
        except SpecError as error:
            problems.extend(error.violations)
    return models


def _check_functions(step: Step, where: str, problems: list[Violation]) -> None:
    """What steps are made of later is imported now: later nobody knows that a file said so."""
    try:
        if isinstance(step.callback, str):
            imported_function(step.callback)
        if isinstance(step.when, str):
            from raypipe.steps.columns.filter import predicate

            predicate(step.when)
    except SpecError as error:
        problems.extend(Violation(where, str(violation)) for violation in error.violations)


def _step(
    number: int, spec: PipelineSpec, models: dict[str, ModelOrPool], base: Path, problems: list[Violation]
) -> Step | None:
    one = spec.steps[number]
    where = place(number, one.name)
    try:
        kind = resolve(one.type)
        options = one.options
        if "llm" in options:
            options["llm"] = _llm(options["llm"], spec, models, where)
        if "base_dir" in kind.model_fields:
            options.setdefault("base_dir", str(base))
        made = kind(**options)
        if made.llm is not None:  # a step may be given it under another name
            made.llm = reachable(made.llm, where)
    except SpecError as error:
        problems.extend(v if one.name and one.name in v.where else Violation(where, str(v)) for v in error.violations)
    except TypeError as error:
        problems.append(Violation(where, f"has an option that cannot be read: {error}"))
    else:
        _check_functions(made, where, problems)
        return made
    return None


def _llm(said: Any, spec: PipelineSpec, models: dict[str, ModelOrPool], where: str) -> ModelOrPool | None:
    if isinstance(said, str) and said in spec.models:
        return models.get(said) or LLM(_ANY_MODEL)
    if isinstance(said, str) and "/" in said:
        return LLM(said)
    if isinstance(said, list) and said:
        members = [_llm(one, spec, models, where) for one in cast("list[Any]", said)]
        return make_pool([one for one in members if one is not None])
    if isinstance(said, dict):
        return from_options(cast("dict[str, Any]", said))
    hint = nearest(str(said), list(spec.models))
    raise SpecError.of(where, f"option 'llm': there is no model {said!r}{hint}")


def _above(
    number: int,
    spec: PipelineSpec,
    made: Sequence[Step | None],
    by_name: dict[str, Step],
    problems: list[Violation],
) -> list[Step]:
    """The steps that step `number` comes after."""
    one = spec.steps[number]
    if one.after is None:
        previous = made[number - 1] if number and not isinstance(made[number], Source) else None
        return [previous] if previous is not None else []
    names = [other.name for other in spec.steps if other.name]
    for name in one.after:
        if name not in names:
            where = place(number, one.name)
            problems.append(Violation(where, f"option 'after': there is no step {name!r}{nearest(name, names)}"))
    return [by_name[name] for name in one.after if name in by_name]
