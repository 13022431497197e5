"""What a program for distilabel imports and is not here is answered with what to write instead."""

from __future__ import annotations

from importlib import import_module

import pytest

import raypipe.contracts.distilabel_names
from raypipe.errors import SpecError
from raypipe.steps import resolve


@pytest.mark.parametrize(
    ("module", "name", "instead"),
    [
        ("steps.tasks", "PrometheusEval", "write it as a Task of your own with format_input and format_output"),
        ("steps.tasks", "EvolInstructGenerator", "put LoadDataFromDicts with first instructions before EvolInstruct"),
        ("steps.tasks", "TextGenerationWithImage", "write ChatGeneration"),
        ("steps.tasks", "ArgillaLabeller", "to_datasets"),
        ("steps.tasks", "ImageGeneration", "save_artifact"),
        ("steps", "PushToHub", r"result\.push_to_hub"),
        ("steps", "DeitaFiltering", 'step_type="global"'),
        ("steps", "PairRM", r"StepResources\(gpus="),
        ("models", "SentenceTransformerEmbeddings", r"EmbeddingGeneration\(embeddings="),
        ("steps", "ConversationTemplate", r"@step\(outputs="),
        ("llms", "TransformersLLM", "OpenAI-compatible endpoint"),
        ("models", "InferenceEndpointsLLM", "OpenAI-compatible endpoint"),
        ("models", "ClientvLLM", "vllm-server/"),
        ("llms", "MixtureOfAgentsLLM", "GroupColumns"),
        ("pipeline", "InstructionResponsePipeline", "MagpieGenerator"),
    ],
)
def test_a_name_of_distilabel_that_is_not_here_says_what_to_write(module: str, name: str, instead: str) -> None:
    with pytest.raises(ImportError, match=rf"^raypipe has no {name}; .*{instead}"):
        exec(f"from raypipe.{module} import {name}")


@pytest.mark.parametrize("module", ["steps", "steps.tasks", "models", "llms", "pipeline"])
def test_what_is_there_is_never_said_to_be_missing(module: str) -> None:
    found = import_module(f"raypipe.{module}")
    for name in found.__all__:
        assert name not in raypipe.contracts.distilabel_names.INSTEAD
        assert getattr(found, name) is not None
    with pytest.raises(AttributeError, match="has no attribute"):
        found.NoSuchThing  # noqa: B018


def test_a_file_that_names_one_is_told_the_same() -> None:
    with pytest.raises(SpecError, match="step type 'CLAIR': is not in raypipe; write it as a Task of your own"):
        resolve("CLAIR")
