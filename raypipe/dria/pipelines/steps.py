"""I am the steps that a Dria pipeline is made of: one asks for each task, one makes tasks of the answers.

I do not know the order of steps. A row is a task: its inputs as JSON in one column, then the answer beside it.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, cast

from raypipe.contracts.llm import Caller
from raypipe.contracts.step import Columns, Output, Runs, Shape
from raypipe.contracts.step import Step as AnyStep
from raypipe.dria.pipelines.callbacks import Following, tasks
from raypipe.dria.pipelines.template import StepTemplate
from raypipe.dria.tasks import Step, TaskInput, TaskResult, written
from raypipe.row import MODEL_NAME, Values
from raypipe.steps.prompts.to_text import to_text
from raypipe.workflows import WorkflowStep

TASK = "task_input"
RESULT = "result"
ROWS = "rows"
OUTPUT = "_output"
"""What a row behind the last step stands for, as JSON: an object where it is all, otherwise a list of one."""


class TaskStep(WorkflowStep):
    """Runs the workflow that a template makes of each task's own inputs."""

    def writes(self) -> dict[str, str]:
        return {RESULT: "string", MODEL_NAME: "string"}

    async def process_row(self, row: Values, llm: Caller) -> Output:
        made = cast("Values", await super().process_row(row, llm))
        return {RESULT: to_text(made[RESULT]), MODEL_NAME: llm.label}


class HandOver(AnyStep):
    """Makes tasks of the next step of a step's answers; behind the last step, the rows of the dataset."""

    runs: ClassVar[Runs] = Runs.THREAD

    template: Any
    answered: str
    """The step whose answers come."""
    following: Any = None
    """The step that takes the tasks, if there is one."""
    gathers: bool = False
    """Whether a row has many answers, in the column `rows`, or is one."""

    @property
    def shape(self) -> Shape:
        return Shape.SCATTER

    def reads(self) -> tuple[str, ...]:
        return (ROWS,) if self.gathers else (TASK, RESULT, MODEL_NAME)

    def consumes(self) -> tuple[str, ...]:
        return (ROWS, TASK) if self.gathers else (TASK, RESULT, MODEL_NAME)

    def writes(self) -> dict[str, str]:
        return {OUTPUT if self.following is None else TASK: "string"}

    def columns_after(self, columns: Columns) -> Columns:
        return None if self.following is None else (TASK,)

    def changes(self) -> Columns:
        return None

    def process_row_in_thread(self, row: Values) -> Output:
        rows = row[ROWS] if self.gathers else [row]
        if not rows:
            return []
        template, following = cast(StepTemplate, self.template), cast("Following | None", self.following)
        outputs = [
            TaskResult(each[RESULT], TaskInput(**json.loads(each[TASK])), each[MODEL_NAME], self.answered)
            for each in rows
        ]
        made = tasks(template, Step(self.answered, outputs), following)
        if following is not None:
            return [{TASK: written(task)} for task in (made if isinstance(made, list) else [made])]
        return _dataset(made)


class Answers(HandOver):
    """Behind a last step without callback: each answer is a row of the dataset, beside what it was asked with."""

    @property
    def shape(self) -> Shape:
        return Shape.MAP

    def process_row_in_thread(self, row: Values) -> Output:
        own = {RESULT: row[RESULT], MODEL_NAME: row[MODEL_NAME]}
        return json.loads(row[TASK]) | own | {OUTPUT: written({RESULT: row[RESULT]})}


def _dataset(made: TaskInput | list[TaskInput]) -> list[Values]:
    if not isinstance(made, list):
        return [{**made, OUTPUT: written(made)}]
    return [{**task, OUTPUT: f"[{written(task)}]"} for task in made]


def output_of(rows: list[str], *, is_default: bool) -> Any:
    """What the rows behind the last step stand for together: `rows` is their column `_output`, in order.

    Without a callback `{"result": [every answer]}`; with one a list, or the only mapping where it returned no list.
    """
    values = [json.loads(row) for row in rows]
    if is_default:
        return {RESULT: [value[RESULT] for value in values]}
    if len(values) == 1 and isinstance(values[0], dict):
        return values[0]
    return [item for value in values for item in (value if isinstance(value, list) else [value])]
