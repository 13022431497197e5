"""A program written for distilabel, with other imports: three models answer each prompt, all or two of them by chance.

python several_models.py URL FOLDER OUT ENGINE all|sampled|dataset
"""

import json
import random
import sys

from raypipe.models import MistralLLM, OpenAILLM, VertexAILLM
from raypipe.pipeline import Pipeline, routing_batch_function
from raypipe.steps import GroupColumns, LoadDataFromHub
from raypipe.steps.tasks import TextGeneration

url, folder, out, engine, mode = sys.argv[1:]


@routing_batch_function
def sample_two_steps(steps: list[str]) -> list[str]:
    return random.sample(steps, 2)


with Pipeline("pipe-name", description="My first pipe") as pipeline:
    tasks = []
    for llm in (
        OpenAILLM(model="gpt-4-0125-preview", base_url=url),
        MistralLLM(model="mistral-large-2402", base_url=url),
        VertexAILLM(model="gemini-1.0-pro", base_url=url),
    ):
        tasks.append(TextGeneration(name=f"text_generation_with_{llm.model_name}", llm=llm, input_batch_size=5))

    combine_generations = GroupColumns(
        name="combine_generations",
        columns=["generation", "model_name"],
        output_columns=["generations", "model_names"],
    )

    if mode == "dataset":
        sample_two_steps >> tasks >> combine_generations
    else:
        load_dataset = LoadDataFromHub(name="load_dataset", output_mappings={"prompt": "instruction"}, batch_size=10)
        if mode == "all":
            load_dataset >> tasks >> combine_generations
        else:
            load_dataset >> sample_two_steps >> tasks >> combine_generations

generation = {"llm": {"generation_kwargs": {"temperature": 0.7, "max_new_tokens": 512}}}
parameters = {task.name: generation for task in tasks}

if __name__ == "__main__":
    if mode == "dataset":
        dataset = [{"instruction": f"prompt {number}"} for number in range(12)]
        distiset = pipeline.run(out, engine=engine, dataset=dataset, parameters=parameters)
    else:
        loading = {"load_dataset": {"repo_id": folder, "split": "train"}}
        distiset = pipeline.run(out, engine=engine, parameters=loading | parameters)
    print(json.dumps({"subsets": list(distiset), "rows": list(distiset["default"]["train"])}, default=str))
