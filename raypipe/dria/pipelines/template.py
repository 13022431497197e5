"""A step as a program of Dria writes it: a workflow for each task, and how its answers become the next tasks.

Knows nothing of how tasks are run; `steps` makes the steps of a pipeline of it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, Literal, Self, get_args

from raypipe.contracts.llm import LLM
from raypipe.dria.models import CallbackType, Model
from raypipe.dria.pipelines.config import StepConfig
from raypipe.dria.pipelines.inputs import Inputs
from raypipe.dria.tasks import Step, TaskInput
from raypipe.errors import SpecError
from raypipe.row import Values
from raypipe.workflows import Workflow, WorkflowBuilder

Together = Literal["all", "root", "task"]
"""Answers that a callback sees at once: all of the step, all that stem from one input of the pipeline, or one alone."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How a step's answers become the tasks of the next step."""

    kind: CallbackType = CallbackType.DEFAULT
    copies: int = 1
    by: Together = "all"

    @property
    def gathers(self) -> Literal["all", "root"] | None:
        """The answers that a callback waits for; `None` where each is passed on by itself."""
        if self.kind in (CallbackType.SCATTER, CallbackType.BROADCAST) or self.by == "task":
            return None
        return self.by


class StepTemplate(ABC):
    """A step: subclass it and write `create_workflow`, and `callback` where its answers need one.

    Keyword arguments become `self.params`: `Questions(n_questions=5)` has `self.params.n_questions`.
    """

    def __init__(self, config: StepConfig | None = None, **params: Any) -> None:
        self.config = config or StepConfig()
        self.params = SimpleNamespace(**params)
        own = type(self).callback is not StepTemplate.callback
        self.ending = Ending(CallbackType.CUSTOM if own else CallbackType.DEFAULT)

    def __repr__(self) -> str:
        params = ", ".join(f"{name}={value!r}" for name, value in vars(self.params).items())
        return f"{type(self).__name__}({params})"

    @abstractmethod
    def create_workflow(self, *args: Any, **inputs: Any) -> Any:
        """The workflow for one task; its parameters are the step's inputs. Called for each task with its own values."""

    def callback(self, step: Step) -> list[TaskInput] | TaskInput:
        """The tasks of the next step, or after the last one the output: one for each `TaskInput`.

        `step.output` holds the answers to all tasks of the step that did not fail, even where the pipeline has several
        inputs; `custom(by=…)` makes them fewer. A task must have the inputs of the next step, and may have more.
        """
        return TaskInput(result=[one.result for one in step.output])

    def scatter(self) -> Self:
        """Each answer is a JSON list, and each item of it a task of the next step."""
        return self._set_ending(Ending(CallbackType.SCATTER))

    def broadcast(self, n: int) -> Self:
        """Each answer becomes `n` equal tasks of the next step, asked separately. Raises SpecError for n below 1."""
        if n < 1:
            raise SpecError.of(f"{type(self).__name__}.broadcast", f"n is 1 or more, got {n!r}")
        return self._set_ending(Ending(CallbackType.BROADCAST, n))

    def aggregate(self, by: Together = "all") -> Self:
        """All answers of the step become one list, the input of one task; `by="root"`: one for each pipeline input."""
        return self._set_ending(Ending(CallbackType.AGGREGATE, by=by))

    def custom(self, by: Together = "all") -> Self:
        """The tasks that `callback` returns: it is called once, with all answers, when all tasks of the step are done.

        `by="root"`: it is called for each input of the pipeline with the answers that stem from it; `by="task"`: for
        each answer as it comes. Then nothing waits for other inputs, an error of the callback fails only what it was
        called for, and an input that is added leaves the calls of the others as they are. Raises SpecError for a
        template without a callback.
        """
        if type(self).callback is StepTemplate.callback:
            problem = "has no callback of its own; write `def callback(self, step)`, or choose scatter or aggregate"
            raise SpecError.of(f"{type(self).__name__}.custom", problem)
        return self._set_ending(Ending(CallbackType.CUSTOM, by=by))

    def set_models(self, models: Sequence[Model | LLM | str] | None = None) -> Self:
        """Choose the models that answer; of several, any may answer a task."""
        self.config = self.config.update({"models": list(models or ())})
        return self

    def set_workflow_params(
        self,
        min_compute: float | None = None,
        max_time: float | None = None,
        max_steps: int | None = None,
        max_tokens: int | None = None,
    ) -> Self:
        """Limit each task, instead of its workflow's own limits: seconds of work, questions, tokens of its answers.

        A task that reaches a limit fails. `min_compute` changes nothing, and a warning says so. Raises SpecError for a
        negative value.
        """
        given = {"min_compute": min_compute, "max_time": max_time, "max_steps": max_steps, "max_tokens": max_tokens}
        self.config = self.config.update(given)
        return self

    def make_workflow(self, row: Values) -> Any:
        """The workflow for the task in a row, its own limits replaced where the step has some."""
        inputs = Inputs.of(self.create_workflow)
        made = self.create_workflow(**inputs.select(json.loads(row["task_input"])))
        made = made.build() if isinstance(made, WorkflowBuilder) else made
        if not isinstance(made, Workflow):
            return made
        limits = {name: getattr(self.config, name) for name in ("max_time", "max_steps", "max_tokens")}
        given = {name: limit for name, limit in limits.items() if limit is not None}
        return replace(made, limits=replace(made.limits, **given))

    def _set_ending(self, ending: Ending) -> Self:
        allowed = [by for by in get_args(Together) if by != "task" or ending.kind is not CallbackType.AGGREGATE]
        if ending.by not in allowed:
            where = f"{type(self).__name__}.{ending.kind}"
            raise SpecError.of(where, f"by is one of {allowed}, got {ending.by!r}")
        self.ending = ending
        return self
