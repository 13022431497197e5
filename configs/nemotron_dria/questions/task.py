"""From a subtopic to questions about it, each a task of the next step."""

from raypipe.dria.factory.utilities import get_abs_path
from raypipe.dria.models import TaskInput
from raypipe.dria.pipelines import Step, StepTemplate
from raypipe.workflows import Edge, Operator, Workflow, WorkflowBuilder, Write


class Questions(StepTemplate):
    """One task for each line of an answer; its subtopic comes along into the dataset."""

    def create_workflow(self, sub_topic: str, n_questions: str) -> Workflow:
        builder = WorkflowBuilder(sub_topic=sub_topic, n_questions=n_questions)
        builder.set_max_time(120)
        builder.generative_step(
            id="generate_questions",
            path=get_abs_path("prompt.md"),
            operator=Operator.GENERATION,
            outputs=[Write.new("questions")],
        )
        builder.flow([Edge(source="generate_questions", target="_end")])
        builder.set_return_value("questions")
        return builder.build()

    def callback(self, step: Step) -> list[TaskInput]:
        return [
            TaskInput(question=line.strip(), sub_topic=output.task_input["sub_topic"])
            for output in step.output
            for line in output.result.splitlines()
            if line.strip()
        ]
