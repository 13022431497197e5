"""From a topic to its subtopics, each a task of the next step."""

from raypipe.dria.factory.utilities import get_abs_path
from raypipe.dria.models import TaskInput
from raypipe.dria.pipelines import Step, StepTemplate
from raypipe.workflows import Edge, Operator, Workflow, WorkflowBuilder, Write


class Subtopics(StepTemplate):
    """Takes `n_questions` along for the next step."""

    def create_workflow(self, topic: str, n_subtopics: str) -> Workflow:
        builder = WorkflowBuilder(topic=topic, n_subtopics=n_subtopics)
        builder.set_max_time(120)
        builder.generative_step(
            id="generate_subtopics",
            path=get_abs_path("prompt.md"),
            operator=Operator.GENERATION,
            outputs=[Write.new("subtopics")],
        )
        builder.flow([Edge(source="generate_subtopics", target="_end")])
        builder.set_return_value("subtopics")
        return builder.build()

    def callback(self, step: Step) -> list[TaskInput]:
        names = (name.strip(" .\n") for output in step.output for name in output.result.split(","))
        return [TaskInput(sub_topic=name, n_questions=self.params.n_questions) for name in names if name]
