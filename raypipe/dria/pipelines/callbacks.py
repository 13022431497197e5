"""I make the tasks of the next step, or the output of the last one, of a step's answers.

I do not know whether the answers are all of the step's or one alone; whoever brings them together does.
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
"""The name of a value behind the last step, where no input names it."""


@dataclass(frozen=True, slots=True)
class Following:
    """The step that tasks are made for."""

    name: str
    inputs: Inputs = field(default_factory=Inputs)


def tasks(template: StepTemplate, step: Step, following: Following | None) -> TaskInput | list[TaskInput]:
    """One task, or several. Raises RowError for answers that are not in the form that the callback needs."""
    ending = template.ending
    name = SINGLE if following is None else following.inputs.first
    if ending.kind is CallbackType.SCATTER:
        return [TaskInput(**{name: item}) for one in step.output for item in _items(one.result)]
    if ending.kind is CallbackType.BROADCAST:
        return [TaskInput(**{name: _value(one.result)}) for one in step.output for _ in range(ending.copies)]
    if ending.kind is CallbackType.AGGREGATE:
        return TaskInput(**{name: [_value(one.result) for one in step.output]})
    made = _checked(template.callback(step), step)
    if following is not None:
        for task in made if isinstance(made, list) else [made]:
            _check(task, step, following)
    return made


def _items(text: str) -> list[Any]:
    try:
        found = parse_json(text)
    except ValueError as error:
        raise RowError(f"scatter needs a JSON list: {error}", kind="parse") from None
    if not isinstance(found, list):
        raise RowError(f"scatter needs a JSON list, got {found!r}", kind="parse")
    return cast("list[Any]", found)


def _value(text: str) -> Any:
    """The JSON value in a text, or the text where it has none."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _checked(made: Any, step: Step) -> TaskInput | list[TaskInput]:
    """What a callback returned, each a task."""
    if isinstance(made, Mapping):
        return _task(cast("Mapping[str, Any]", made))
    if isinstance(made, list | tuple):
        given = cast("list[Any]", made)
        wrong = next((one for one in given if not isinstance(one, Mapping)), None)
        if wrong is None:
            return [_task(one) for one in given]
        made = wrong
    problem = f"the callback of {step.name!r} returned a {type(made).__name__}; return a TaskInput or a list of them"
    raise RowError(problem, kind="output")


def _task(values: Mapping[str, Any]) -> TaskInput:
    return values if isinstance(values, TaskInput) else TaskInput(**values)


def _check(task: TaskInput, step: Step, following: Following) -> None:
    missing = following.inputs.missing(task)
    if missing:
        wanted, got = ", ".join(following.inputs.required), ", ".join(task) or "nothing"
        problem = f"step {following.name!r} takes {wanted}, but the callback of {step.name!r} gave a task with {got}"
        raise RowError(f"{problem}; give it {missing[0]} too", kind="inputs")
