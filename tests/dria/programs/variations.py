"""Two steps, as Dria's documents have them: variations of an instruction, each carried out."""

from dria.client import Dria
from dria.pipelines import Pipeline, PipelineBuilder, PipelineConfig, StepTemplate
from dria_workflows import *


class FirstPipelineStep(StepTemplate):
    def create_workflow(self, instruction: str) -> Workflow:
        # Create a workflow builder
        builder = WorkflowBuilder(instruction=instruction)

        # Add a step to your workflow
        builder.generative_step(
            id="generate_variations",
            prompt="Rewrite 5 variations of given instruction by making small changes. Instruction: {{instruction}}. "
            "Output a single Python list for new instructions, and nothing else. New instructions:",
            operator=Operator.GENERATION,
            outputs=[Write.new("variations")],
        )

        # Define flow
        flow = [Edge(source="generate_variations", target="_end")]

        # Build workflow
        builder.flow(flow)
        builder.set_return_value("variations")
        workflow = builder.build()
        return workflow


class SecondPipelineStep(StepTemplate):
    def create_workflow(self, instruction: str) -> Workflow:
        builder = WorkflowBuilder(instruction=instruction)
        builder.generative_step(
            id="execute_instruction",
            path="{{instruction}}",
            operator=Operator.GENERATION,
            outputs=[Write.new("output")],
        )
        flow = [Edge(source="execute_instruction", target="_end")]
        builder.flow(flow)
        builder.set_return_value("output")
        workflow = builder.build()
        return workflow


class BasicPipeline:
    def __init__(self, dria: Dria, config: PipelineConfig):
        self.pipeline_config: PipelineConfig = config or PipelineConfig()
        self.pipeline = PipelineBuilder(self.pipeline_config, dria)

    def build(self, instruction: str) -> Pipeline:
        self.pipeline.input(instruction=instruction)
        self.pipeline << FirstPipelineStep().scatter() << SecondPipelineStep()
        return self.pipeline.build()


class SeveralInputs:
    def __init__(self, dria: Dria):
        self.pipeline = PipelineBuilder(dria)

    def build(self, instructions) -> Pipeline:
        self.pipeline.input([{"instruction": instruction} for instruction in instructions])
        self.pipeline << FirstPipelineStep().scatter() << SecondPipelineStep()
        return self.pipeline.build()
