"""I am a task of a step: what it is given, and what came back.

I do not know how it is done. Between steps a task is text, so that its values may be anything that JSON can say.
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
        """The inputs as a plain mapping."""
        return {**self._values}

    dict = model_dump


@dataclass(frozen=True, slots=True)
class TaskResult:
    """What one task was answered."""

    result: str
    """The return value of its workflow; a list or several keys as JSON."""
    task_input: TaskInput
    model: str
    """The model that answered, as `provider/model`."""
    step_name: str


@dataclass(frozen=True, slots=True)
class Step:
    """A step whose tasks are done, as a callback sees it. Tasks that failed are not among them."""

    name: str
    output: list[TaskResult] = field(default_factory=list[TaskResult])

    @property
    def step_name(self) -> str:
        return self.name

    @property
    def all_inputs(self) -> list[TaskInput]:
        """What the tasks were given, in the order of `output`."""
        return [one.task_input for one in self.output]


def written(values: Mapping[str, Any]) -> str:
    """The inputs of a task as JSON; what JSON cannot say is said in words."""
    text = json.dumps(dict(values), ensure_ascii=False, default=_plain)
    try:
        text.encode()
    except UnicodeEncodeError:  # half of a character
        return json.dumps(dict(values), default=_plain)
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(cast("Mapping[Any, Any]", value))
    if isinstance(value, BaseModel):
        return value.model_dump()
    if isinstance(value, set | frozenset):
        return sorted(cast("set[Any]", value), key=str)
    return value.isoformat() if isinstance(value, date | time) else str(value)
