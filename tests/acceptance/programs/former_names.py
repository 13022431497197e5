"""A program written for an early distilabel, with other imports.

python former_names.py URL FOLDER OUT ENGINE
"""

import json
import sys

from raypipe.llms import MistralLLM, OpenAILLM, VertexAILLM
from raypipe.pipeline import Pipeline
from raypipe.steps import CombineColumns, LoadHubDataset
from raypipe.steps.tasks import TextGeneration

url, folder, out, engine = sys.argv[1:]

with Pipeline("pipe-name", description="My first pipe") as pipeline:
    load_dataset = LoadHubDataset(
        name="load_dataset",
        output_mappings={"prompt": "instruction"},
    )

    combine_generations = CombineColumns(
        name="combine_generations",
        columns=["generation", "model_name"],
        output_columns=["generations", "model_names"],
    )

    for llm in (
        OpenAILLM(model="gpt-4-0125-preview", base_url=url),
        MistralLLM(model="mistral-large-2402", base_url=url),
        VertexAILLM(model="gemini-1.0-pro", base_url=url),
    ):
        task = TextGeneration(name=f"text_generation_with_{llm.model_name}", llm=llm)
        load_dataset.connect(task)
        task.connect(combine_generations)

generation = {"llm": {"generation_kwargs": {"temperature": 0.7, "max_new_tokens": 512}}}

if __name__ == "__main__":
    distiset = pipeline.run(
        out,
        engine=engine,
        parameters={
            "load_dataset": {"repo_id": folder, "split": "train"},
            "text_generation_with_gpt-4-0125-preview": generation,
            "text_generation_with_mistral-large-2402": generation,
            "text_generation_with_gemini-1.0-pro": generation,
        },
    )
    print(json.dumps({"subsets": list(distiset), "rows": list(distiset["default"]["train"])}, default=str))
