"""Knows the steps, models and options of distilabel that raypipe does not have, and what to write instead.

Knows nothing of those that raypipe has.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from raypipe.errors import SpecError, Violation, nearest

_TASK = "write it as a Task of your own with format_input and format_output, or as TextGeneration with a template"
_LOCAL_MODEL = "call the library that has the model in a @step of your own, with resources=StepResources(gpus=…)"
_SERVED = 'serve the model behind an OpenAI-compatible endpoint and write LLM("openai/…", base_url=…)'
_EMBEDDING = 'EmbeddingGeneration(embeddings=LLM("vllm/…"))'
_ALL_ROWS = 'write it as a function of all rows: @step(step_type="global")'
_ARGILLA = 'give the rows to the client of Argilla: result["default"].to_datasets()'
_EVOLVING = "put LoadDataFromDicts with first instructions before EvolInstruct"

INSTEAD = {
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
    "GenerateEmbeddings": "write EmbeddingGeneration",
    "PairRM": _LOCAL_MODEL,
    "vLLMEmbeddings": f"write {_EMBEDDING}",
    **dict.fromkeys(
        ("LlamaCppEmbeddings", "SentenceTransformerEmbeddings"),
        f'write {_EMBEDDING}, or serve the model and write LLM("openai/…", base_url=…)',
    ),
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
"""Steps and models of distilabel that are not here, and what to write instead."""


def missing(module: str, name: str, known: Sequence[str]) -> ImportError | AttributeError:
    """The error of a module that lacks a name; for one of distilabel's it says what to write instead."""
    if name in INSTEAD:
        return ImportError(f"raypipe has no {name}; {INSTEAD[name]}")
    return AttributeError(f"module {module!r} has no attribute {name!r}{nearest(name, known)}")


_NO_FILES = "batches travel in memory and through Ray's object store; leave it out"
_OWN_FILES = "how rows are put into files is decided by datasets; write result[leaf].to_datasets().save_to_disk(…)"
_ALL_KEPT = "card and pipeline are always saved; leave it out, or delete the file"
_OPTIONS = {
    "cache_dir": "the folder of a run, and that of its calls, is given when it is run; write run(out=…, calls=…)",
    "enable_metadata": "what a step keeps of its calls is an option of the step; write add_raw_output=True there",
    "requirements": "what a pipeline imports is installed before it is made; leave it out",
    "storage_parameters": _NO_FILES,
    "use_fs_to_pass_data": _NO_FILES,
    "dataset_batch_size": "a dataset is read as fast as its rows are worked on; leave it out",
    "logging_handlers": "a run changes no logging; add the handler to logging.getLogger() yourself",
    "max_shard_size": _OWN_FILES,
    "num_shards": _OWN_FILES,
    "num_proc": _OWN_FILES,
    "storage_options": _OWN_FILES,
    "save_card": _ALL_KEPT,
    "save_pipeline_config": _ALL_KEPT,
    "save_pipeline_log": _ALL_KEPT,
}
"""Options of distilabel's pipelines, runs and results, and what to do instead."""


def refuse_options(where: str, unknown: Iterable[str], known: Sequence[str]) -> None:
    """Raises SpecError for options that there are not, each with what to do instead."""
    problems = [
        f"option {name!r}: {_OPTIONS[name]}" if name in _OPTIONS else f"has no option {name!r}{nearest(name, known)}"
        for name in unknown
    ]
    if problems:
        raise SpecError(violations=[Violation(where, problem) for problem in problems])
