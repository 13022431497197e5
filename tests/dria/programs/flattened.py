"""A custom callback that makes one list of many, as Dria's documents have it."""

from typing import List, Union

from dria import Dria
from dria.factory.utilities import get_abs_path, parse_json
from dria.models import TaskInput
from dria.pipelines import PipelineBuilder, Step, StepTemplate
from dria_workflows import Edge, GetAll, Operator, Workflow, WorkflowBuilder, Write

assert get_abs_path("prompt.md").startswith("/")


class GenerateSubtopics(StepTemplate):
    def create_workflow(self, topic: str) -> Workflow:
        builder = WorkflowBuilder(topic=topic)
        builder.generative_step(
            id="subtopics",
            prompt="Subtopics of {{topic}} as a JSON list.",
            operator=Operator.GENERATION,
            outputs=[Write.new("subtopics")],
        )
        builder.flow([Edge(source="subtopics", target="_end")])
        builder.set_return_value("subtopics")
        return builder.build()

    def callback(self, step: "Step") -> Union[List[TaskInput], TaskInput]:
        """
        Only to use as the last callback
        Args:
            step:

        Returns:

        """
        # flatten list of lists
        outputs = [parse_json(o.result) for o in step.output]
        flattened = [item for sublist in outputs for item in sublist]
        return TaskInput(**{"subtopics": flattened})


class Summary(StepTemplate):
    def create_workflow(self, subtopics: List[str]) -> Workflow:
        builder = WorkflowBuilder(subtopics=subtopics)
        builder.generative_step(
            id="summary",
            prompt="Summarize {{subtopics}}",
            operator=Operator.GENERATION,
            inputs=[GetAll.new("subtopics", True)],
            outputs=[Write.new("summary")],
        )
        builder.flow([Edge(source="summary", target="_end")])
        builder.set_return_value("summary")
        return builder.build()


def flattened(dria: Dria, topics):
    pipeline = PipelineBuilder(dria).input([{"topic": topic} for topic in topics])
    return (pipeline << GenerateSubtopics().custom()).build()


def summarized(dria: Dria, topics):
    pipeline = PipelineBuilder(dria).input([{"topic": topic} for topic in topics])
    return (pipeline << GenerateSubtopics().custom() << Summary()).build()
