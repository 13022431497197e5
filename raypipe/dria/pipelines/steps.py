"""The steps that a Dria pipeline is made of: one asks for each task, one makes tasks of the answers.

Knows nothing of the order of steps. A row is a task: its inputs as JSON in one column, then the answer beside it.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar, cast

from raypipe.contracts.llm import Caller
from raypipe.contracts.step import Columns, Output, Runs, Shape
from raypipe.contracts.step import Step as AnyStep
from raypipe.dria.pipelines.callbacks import Following, make_tasks
from raypipe.dria.pipelines.template import StepTemplate
from raypipe.dria.tasks import Step, TaskInput, TaskResult, to_json
from raypipe.row import MODEL_NAME, Values
from raypipe.steps.prompts.to_text import to_text
from raypipe.workflows import WorkflowStep

TASK = "task_input"
RESULT = "result"
ROWS = "rows"
OUTPUT = "_output"
"""The part of the pipeline's output that a row of the last step holds, as JSON: an object where it is all of it,
otherwise a list of one."""


class TaskStep(WorkflowStep):
    """Runs the workflow that a template makes for each task."""

    def writes(self) -> dict[str, str]:
        return {RESULT: "string", MODEL_NAME: "string"}

    async def process_row(self, row: Values, llm: Caller) -> Output:
        made = cast("Values", await super().process_row(row, llm))
        return {RESULT: to_text(made[RESULT]), MODEL_NAME: llm.label}


class HandOver(AnyStep):
    """Makes tasks of the next step from a step's answers; after the last step, the rows of the dataset."""

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.SCATTER
    writes_unknown: ClassVar[bool] = True

    template: Any
    answered: str
    """The step that answered."""
    following: Any = None
    """The next step, if there is one."""
    gathers: bool = False
    """Whether a row holds many answers, in the column `rows`, or is one."""

    def reads(self) -> tuple[str, ...]:
        return (ROWS,) if self.gathers else (TASK, RESULT, MODEL_NAME)

    def consumes(self) -> tuple[str, ...]:
        return (ROWS, TASK) if self.gathers else (TASK, RESULT, MODEL_NAME)

    def writes(self) -> dict[str, str]:
        return {OUTPUT if self.following is None else TASK: "string"}

    def columns_after(self, columns: Columns) -> Columns:
        return None if self.following is None else (TASK,)

    def process_row_in_thread(self, row: Values) -> Output:
        rows = row[ROWS] if self.gathers else [row]
        if not rows:
            return []
        template, following = cast(StepTemplate, self.template), cast("Following | None", self.following)
        outputs = [
            TaskResult(each[RESULT], TaskInput(**json.loads(each[TASK])), each[MODEL_NAME], self.answered)
            for each in rows
        ]
        made = make_tasks(template, Step(self.answered, outputs), following)
        if following is not None:
            return [{TASK: to_json(task)} for task in (made if isinstance(made, list) else [made])]
        if not isinstance(made, list):
            return [{**made, OUTPUT: to_json(made)}]
        return [{**task, OUTPUT: f"[{to_json(task)}]"} for task in made]


class Answers(HandOver):
    """After a last step without callback: each answer is a row of the dataset, beside the inputs of its task."""

    output_shape: ClassVar[Shape] = Shape.MAP

    def process_row_in_thread(self, row: Values) -> Output:
        own = {RESULT: row[RESULT], MODEL_NAME: row[MODEL_NAME]}
        return json.loads(row[TASK]) | own | {OUTPUT: to_json({RESULT: row[RESULT]})}


def output_of(rows: list[str], *, is_default: bool) -> Any:
    """The output of the pipeline, from the column `_output` of its last step, in order.

    Without a callback `{"result": [every answer]}`; with one a list, or a mapping where it returned one mapping.
    """
    values = [json.loads(row) for row in rows]
    if is_default:
        return {RESULT: [value[RESULT] for value in values]}
    if len(values) == 1 and isinstance(values[0], dict):
        return values[0]
    return [item for value in values for item in (value if isinstance(value, list) else [value])]
