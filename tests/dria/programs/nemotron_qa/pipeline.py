from dria.client import Dria
from dria.models import Model
from dria.pipelines import Pipeline, PipelineBuilder

from .answers import NemotronAnswerStep
from .questions import NemotronQuestionStep
from .subtopics import NemotronSubtopicStep


class NemotronQA:
    def __init__(self, dria: Dria):
        self.pipeline = PipelineBuilder(dria)
        self.models_list = [
            [Model.GPT4O],
            [
                Model.GPT4O_MINI,
                Model.QWEN2_5_32B_FP16,
                Model.GEMINI_15_FLASH,
                Model.MIXTRAL_8_7B,
                Model.QWEN2_5_7B_FP16,
            ],
            [
                Model.O1_MINI,
                Model.LLAMA3_1_8B_FP16,
                Model.GPT4O,
            ],
        ]

    def build(self, topic: str, n_subtopics: str, n_questions: str) -> Pipeline:
        self.pipeline.input(topic=topic, n_subtopics=n_subtopics)
        (self.pipeline << NemotronSubtopicStep(n_questions=n_questions).set_models(self.models_list[0]).custom())
        self.pipeline << NemotronQuestionStep().set_models(self.models_list[1]).custom()
        self.pipeline << NemotronAnswerStep().set_models(self.models_list[2]).custom()

        return self.pipeline.build()
