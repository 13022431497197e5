"""From a question to two responses: a row of the dataset."""

import re

from raypipe.dria.factory.utilities import get_abs_path
from raypipe.dria.models import TaskInput
from raypipe.dria.pipelines import Step, StepTemplate
from raypipe.workflows import Edge, Operator, Workflow, WorkflowBuilder, Write

RESPONSES = re.compile(r"RESPONSE A:\s*(.+?)\s*RESPONSE B:\s*(.+)", re.DOTALL)


class Answers(StepTemplate):
    """An answer in another form fails its row, and the table of failures has it."""

    def create_workflow(self, question: str) -> Workflow:
        builder = WorkflowBuilder(question=question)
        builder.set_max_time(120)
        builder.generative_step(
            id="generate_answers",
            path=get_abs_path("prompt.md"),
            operator=Operator.GENERATION,
            outputs=[Write.new("answers")],
        )
        builder.flow([Edge(source="generate_answers", target="_end")])
        builder.set_return_value("answers")
        return builder.build()

    def callback(self, step: Step) -> list[TaskInput]:
        return [self.row_of(output.task_input, output.result) for output in step.output]

    def row_of(self, task: TaskInput, text: str) -> TaskInput:
        found = RESPONSES.search(text)
        if found is None:
            raise ValueError(f"no RESPONSE A and RESPONSE B in {text[:80]!r}")
        return TaskInput(
            sub_topic=task["sub_topic"],
            question=task["question"],
            response_a=found[1].strip(),
            response_b=found[2].strip(),
        )
