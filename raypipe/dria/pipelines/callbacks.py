"""Makes the tasks of the next step, or the output of the last one, from a step's answers.

Knows nothing of whether the answers are all of the step's or one alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from raypipe.dria.models import CallbackType
from raypipe.dria.parsing import parse_json
from raypipe.dria.pipelines.inputs import Inputs
from raypipe.dria.pipelines.template import StepTemplate
from raypipe.dria.tasks import Step, TaskInput
from raypipe.errors import RowError

SINGLE = "result"
"""The name of a value that no input names: that of the last step, or of one whose next step names no input."""


@dataclass(frozen=True, slots=True)
class Following:
    """The step that tasks are made for, and its inputs."""

    name: str
    inputs: Inputs = field(default_factory=Inputs)


def make_tasks(template: StepTemplate, step: Step, following: Following | None) -> TaskInput | list[TaskInput]:
    """One task, or several. Raises RowError for answers or tasks that do not fit."""
    ending = template.ending
    names = () if following is None else (*following.inputs.required, *following.inputs.optional)
    name = names[0] if names else SINGLE
    if ending.kind is CallbackType.SCATTER:
        return [TaskInput(**{name: item}) for one in step.output for item in _parse_list(one.result)]
    if ending.kind is CallbackType.BROADCAST:
        return [TaskInput(**{name: _parse_or_text(one.result)}) for one in step.output for _ in range(ending.copies)]
    if ending.kind is CallbackType.AGGREGATE:
        return TaskInput(**{name: [_parse_or_text(one.result) for one in step.output]})
    made: Any = template.callback(step)
    values = cast("list[Any]", list(made) if isinstance(made, list | tuple) else [made])
    checked = [_check_task(one, step, following) for one in values]
    return checked if isinstance(made, list | tuple) else checked[0]


def _parse_list(text: str) -> list[Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise RowError(f"scatter needs a JSON list: {error}", kind="parse") from None
    if not isinstance(found, list):
        raise RowError(f"scatter needs a JSON list, got {found!r}", kind="parse")
    return cast("list[Any]", found)


def _parse_or_text(text: str) -> Any:
    """The JSON value in a text, or the text where it has none."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _check_task(made: Any, step: Step, following: Following | None) -> TaskInput:
    """A task that a callback returned. Raises RowError for what is none, or lacks an input of the next step."""
    if not isinstance(made, Mapping):
        problem = (
            f"the callback of {step.name!r} returned a {type(made).__name__}; return a TaskInput or a list of them"
        )
        raise RowError(problem, kind="output")
    task = made if isinstance(made, TaskInput) else TaskInput(**cast("Mapping[str, Any]", made))
    missing = [] if following is None else following.inputs.missing(task)
    if following is not None and missing:
        wanted, got = ", ".join(following.inputs.required), ", ".join(task) or "nothing"
        problem = f"step {following.name!r} takes {wanted}, but the callback of {step.name!r} gave a task with {got}"
        raise RowError(f"{problem}; give it {missing[0]} too", kind="inputs")
    return task
