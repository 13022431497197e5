"""I know the steps and models of distilabel that there are not here, and what to write instead.

I do not know those that there are.
"""

from __future__ import annotations

from collections.abc import Sequence

from raypipe.errors import nearest

_TASK = "write it as a Task of your own with format_input and format_output, or as TextGeneration with a template"
_LOCAL_MODEL = "call the library that has the model in a @step of your own, with resources=StepResources(gpus=…)"
_SERVED = 'serve the model behind an OpenAI-compatible endpoint and write LLM("openai/…", base_url=…)'
_ALL_ROWS = 'write it as a function of all rows: @step(step_type="global")'
_ARGILLA = 'give the rows to the client of Argilla: result["default"].to_datasets()'
_EVOLVING = "put LoadDataFromDicts with first instructions before EvolInstruct"

_INSTEAD = {
    **dict.fromkeys(
        (
            "APIGenExecutionChecker",
            "APIGenGenerator",
            "APIGenSemanticChecker",
            "BitextRetrievalGenerator",
            "CLAIR",
            "ComplexityScorer",
            "EmbeddingTaskGenerator",
            "EvolQuality",
            "GenerateLongTextMatchingData",
            "GenerateShortTextMatchingData",
            "GenerateTextClassificationData",
            "GenerateTextRetrievalData",
            "Genstruct",
            "InstructionBacktranslation",
            "MathShepherdCompleter",
            "MathShepherdGenerator",
            "MonolingualTripletGenerator",
            "PrometheusEval",
            "QualityScorer",
            "TextClustering",
            "URIAL",
        ),
        _TASK,
    ),
    **dict.fromkeys(("EvolInstructGenerator", "EvolComplexityGenerator"), _EVOLVING),
    "EvolComplexity": "write EvolInstruct with mutation_templates=… that make instructions harder",
    "TextGenerationWithImage": "write ChatGeneration; the content of a message may be a list of parts with images",
    **dict.fromkeys(("EmbeddingGeneration", "GenerateEmbeddings", "PairRM", "RewardModelScore"), _LOCAL_MODEL),
    **dict.fromkeys(("DBSCAN", "DeitaFiltering", "EmbeddingDedup", "FaissNearestNeighbour", "UMAP"), _ALL_ROWS),
    **dict.fromkeys(("ArgillaLabeller", "PreferenceToArgilla", "TextGenerationToArgilla"), _ARGILLA),
    **dict.fromkeys(
        ("ConversationTemplate", "FormatPRM", "TruncateTextColumn"),
        "write it as a function of a row: @step(outputs=[…])",
    ),
    **dict.fromkeys(
        ("ImageGeneration", "PrepareExamples"), "write it as a @step of your own; self.save_artifact keeps its files"
    ),
    "InstructionResponsePipeline": "write a Pipeline with MagpieGenerator, which makes instructions and responses",
    "PushToHub": "push what the run gives: result.push_to_hub(…)",
    **dict.fromkeys(
        ("AnyscaleLLM", "CohereLLM", "InferenceEndpointsLLM", "LiteLLM", "LlamaCppLLM", "MlxLLM", "TransformersLLM"),
        _SERVED,
    ),
    "ClientvLLM": 'write LLM("vllm-server/…", base_url=…)',
    "MixtureOfAgentsLLM": "write several TextGeneration steps, GroupColumns, and one that aggregates their answers",
}


def missing(module: str, name: str, known: Sequence[str]) -> ImportError | AttributeError:
    """The error of a module that lacks a name; for one of distilabel's it says what to write instead."""
    if name in _INSTEAD:
        return ImportError(f"raypipe has no {name}; {_INSTEAD[name]}")
    return AttributeError(f"module {module!r} has no attribute {name!r}{nearest(name, known)}")


def instead_of(name: str) -> str | None:
    """What to write instead of a step or model of distilabel's that is not here."""
    return _INSTEAD.get(name)
