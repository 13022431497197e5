"""From a topic to subtopics, questions about them and two responses to each question, in Dria's words.

    python configs/nemotron_dria/pipeline.py

asks the stand-in, which needs no key and no network. `--model openai/gpt-4o-mini` asks that model everything, and
`--models-of-dria` asks the models that are named here, each at its provider.
"""

import argparse
import asyncio
import json

from answers import Answers
from questions import Questions
from topics import Subtopics

from raypipe.dria.client import Dria
from raypipe.dria.models import Model
from raypipe.dria.pipelines import Pipeline, PipelineBuilder


class NemotronQA:
    """Each step has a pool of models; any of them may answer."""

    def __init__(self, dria: Dria) -> None:
        self.pipeline = PipelineBuilder(dria)
        self.models = [
            [Model.GPT4O],
            [Model.GPT4O_MINI, Model.GEMINI_15_FLASH, Model.QWEN2_5_32B_FP16],
            [Model.GPT4O, Model.LLAMA3_1_8B_FP16],
        ]

    def build(self, topic: str, n_subtopics: str, n_questions: str) -> Pipeline:
        """The pipeline for one topic. Every answer goes on as it comes (`by="task"`): no step waits for another."""
        self.pipeline.input(topic=topic, n_subtopics=n_subtopics)
        (
            self.pipeline
            << Subtopics(n_questions=n_questions).set_models(self.models[0]).custom(by="task")
            << Questions().set_models(self.models[1]).custom(by="task")
            << Answers().set_models(self.models[2]).custom(by="task")
        )
        return self.pipeline.build()


async def main(arguments: argparse.Namespace) -> None:
    default = None if arguments.models_of_dria else arguments.model
    dria = Dria(default=default, engine=arguments.engine, out=arguments.out)
    await dria.initialize()
    pipeline = NemotronQA(dria).build(arguments.topic, arguments.n_subtopics, arguments.n_questions)
    rows = await pipeline.execute(return_output=True)
    print(json.dumps(rows[:1], indent=2, ensure_ascii=False))
    print(f"{len(rows)} rows in {pipeline.folder() / 'data'}, {len(pipeline.failures)} failed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--topic", default="Machine Learning")
    parser.add_argument("--n-subtopics", default="10")
    parser.add_argument("--n-questions", default="5")
    parser.add_argument("--model", default="offline/stand-in", help="the model that answers everything")
    parser.add_argument("--models-of-dria", action="store_true", help="ask the models that the steps name")
    parser.add_argument("--engine", choices=["ray", "local"], default="ray")
    parser.add_argument("--out", default="out/nemotron-dria")
    asyncio.run(main(parser.parse_args()))
