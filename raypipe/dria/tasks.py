"""The tasks of a step: their inputs and their answers.

Knows nothing of how a task is run. Between steps a task is JSON text, so that its values may be anything JSON can hold.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, time
from typing import Any, cast

from pydantic import BaseModel

Plain = dict[str, Any]


class TaskInput(Mapping[str, Any]):
    """The inputs of one task: `TaskInput(question="…")`, read as `task["question"]` or `task.question`."""

    __slots__ = ("_values",)

    def __init__(self, /, **values: Any) -> None:
        self._values = values

    def __getitem__(self, key: str) -> Any:
        return self._values[key]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._values:
            raise AttributeError(f"the task has no input {name!r} (it has: {', '.join(self._values) or 'none'})")
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"TaskInput({', '.join(f'{name}={value!r}' for name, value in self._values.items())})"

    def model_dump(self) -> Plain:
        """The inputs as a plain dict."""
        return {**self._values}

    dict = model_dump


@dataclass(frozen=True, slots=True)
class TaskResult:
    """The answer to one task."""

    result: str
    """The return value of its workflow; a list or several keys as JSON."""
    task_input: TaskInput
    model: str
    """The model that answered, as `provider/model`."""
    step_name: str


@dataclass(frozen=True, slots=True)
class Step:
    """A finished step, as a callback sees it. Tasks that failed are left out."""

    name: str
    output: list[TaskResult] = field(default_factory=list[TaskResult])
    """The answers to its tasks."""

    @property
    def step_name(self) -> str:
        return self.name

    @property
    def all_inputs(self) -> list[TaskInput]:
        """The inputs of its tasks, in the order of `output`."""
        return [one.task_input for one in self.output]


def to_json(values: Mapping[str, Any]) -> str:
    """The inputs of a task as JSON; a value that JSON cannot hold becomes text."""
    text = json.dumps(dict(values), ensure_ascii=False, default=_to_plain)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a surrogate pair
        return json.dumps(dict(values), default=_to_plain)
    return text


def _to_plain(value: Any) -> Any:
    """A value that JSON can hold, for one that it cannot."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, set | frozenset):
        return sorted(cast("set[Any]", value), key=str)
    return value.isoformat() if isinstance(value, date | time) else str(value)
