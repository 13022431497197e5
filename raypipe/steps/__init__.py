"""Turns rows into rows: the steps by type name, loaded when they are first asked for.

Knows nothing of how steps are joined or run. Importing the package loads no step, so that a pipeline loads only the
steps that it names.
"""

from __future__ import annotations

from typing import Any

from raypipe.contracts.distilabel_names import INSTEAD, missing
from raypipe.contracts.imports import found_at, imported
from raypipe.contracts.step import Step as AnyStep
from raypipe.errors import SpecError, nearest

REGISTRY: dict[str, str] = {
    "Aggregate": "raypipe.contracts.step:Aggregate",
    "Callback": "raypipe.graph.callback:Callback",
    "Candidates": "raypipe.graph.repeat:Candidates",
    "ChatGeneration": "raypipe.steps.llm.chat_generation:ChatGeneration",
    "ChunkText": "raypipe.steps.columns.chunk_text:ChunkText",
    "ClassifierScore": "raypipe.steps.llm.classifier_score:ClassifierScore",
    "CombinationSampler": "raypipe.steps.sources.combination_sampler:CombinationSampler",
    "CombineColumns": "raypipe.steps.columns.combine_columns:CombineColumns",
    "CombineOutputs": "raypipe.steps.columns.combine_columns:CombineOutputs",
    "DataSampler": "raypipe.steps.sources.data_sampler:DataSampler",
    "EmbeddingGeneration": "raypipe.steps.llm.embedding_generation:EmbeddingGeneration",
    "EvolInstruct": "raypipe.steps.llm.evol_instruct:EvolInstruct",
    "ExpandColumns": "raypipe.steps.columns.merge_columns:ExpandColumns",
    "Filter": "raypipe.steps.columns.filter:Filter",
    "FormatChatGenerationDPO": "raypipe.steps.columns.formatting:FormatChatGenerationDPO",
    "FormatChatGenerationSFT": "raypipe.steps.columns.formatting:FormatChatGenerationSFT",
    "FormatTextGenerationDPO": "raypipe.steps.columns.formatting:FormatTextGenerationDPO",
    "FormatTextGenerationSFT": "raypipe.steps.columns.formatting:FormatTextGenerationSFT",
    "GenerateSentencePair": "raypipe.steps.llm.generate_sentence_pair:GenerateSentencePair",
    "GroupColumns": "raypipe.steps.columns.combine_columns:GroupColumns",
    "KeepColumns": "raypipe.steps.columns.keep_columns:KeepColumns",
    "ListExtension": "raypipe.steps.llm.list_extension:ListExtension",
    "LoadDataFromArrow": "raypipe.steps.sources.in_memory_datasets:LoadDataFromArrow",
    "LoadDataFromDicts": "raypipe.steps.sources.loaders:LoadDataFromDicts",
    "LoadDataFromDisk": "raypipe.steps.sources.hub_loaders:LoadDataFromDisk",
    "LoadDataFromFileSystem": "raypipe.steps.sources.file_system_loader:LoadDataFromFileSystem",
    "LoadDataFromFiles": "raypipe.steps.sources.loaders:LoadDataFromFiles",
    "LoadDataFromHub": "raypipe.steps.sources.hub_loaders:LoadDataFromHub",
    "Magpie": "raypipe.steps.llm.magpie:Magpie",
    "MagpieGenerator": "raypipe.steps.llm.magpie:MagpieGenerator",
    "Meet": "raypipe.graph.branching:Meet",
    "MergeColumns": "raypipe.steps.columns.merge_columns:MergeColumns",
    "MinHashDedup": "raypipe.steps.columns.min_hash_dedup:MinHashDedup",
    "PreferencePair": "raypipe.steps.columns.preference_pair:PreferencePair",
    "RewardModelScore": "raypipe.steps.llm.reward_model_score:RewardModelScore",
    "SelfInstruct": "raypipe.steps.llm.self_instruct:SelfInstruct",
    "StructuredGeneration": "raypipe.steps.llm.structured_generation:StructuredGeneration",
    "TextClassification": "raypipe.steps.llm.text_classification:TextClassification",
    "TextGeneration": "raypipe.steps.llm.text_generation:TextGeneration",
    "TreeGeneration": "raypipe.steps.llm.tree_generation:TreeGeneration",
    "UltraFeedback": "raypipe.steps.llm.ultra_feedback:UltraFeedback",
    "Until": "raypipe.graph.repeat:Until",
    "WorkflowStep": "raypipe.workflows.workflow_step:WorkflowStep",
}
"""Where each step type stands."""

_EXPORTS = REGISTRY | {
    "LoadHubDataset": "raypipe.steps.sources.hub_loaders:LoadDataFromHub",
    "GeneratorStep": "raypipe.steps.functions.batch_steps:GeneratorStep",
    "GeneratorStepOutput": "raypipe.steps.functions.batch_steps:GeneratorStepOutput",
    "GlobalStep": "raypipe.steps.functions.batch_steps:GlobalStep",
    "RuntimeParameter": "raypipe.steps.functions.batch_steps:RuntimeParameter",
    "Step": "raypipe.steps.functions.batch_steps:Step",
    "StepInput": "raypipe.steps.functions.batch_steps:StepInput",
    "StepOutput": "raypipe.steps.functions.batch_steps:StepOutput",
    "StepResources": "raypipe.contracts.step:StepResources",
    "Task": "raypipe.steps.llm.custom_tasks:Task",
    "make_generator_step": "raypipe.steps.sources.in_memory_datasets:make_generator_step",
    "step": "raypipe.steps.functions.step_functions:step",
    "task": "raypipe.steps.llm.custom_tasks:task",
}

__all__ = sorted({"REGISTRY", "resolve", *_EXPORTS} - {"WorkflowStep"})  # pyright: ignore


def __getattr__(name: str) -> Any:
    place = _EXPORTS.get(name)
    if place is None:
        raise missing(__name__, name, list(_EXPORTS))
    return found_at(place)


def resolve(type_name: str) -> type[AnyStep]:
    """The step class of a type name or dotted path.

    Raises SpecError when there is none.
    """
    where = f"step type {type_name!r}"
    if type_name not in REGISTRY and not {".", ":"} & set(type_name):
        hint = f"is unknown{nearest(type_name, list(REGISTRY))}; a type of your own is written module:Class"
        instead = INSTEAD.get(type_name)
        raise SpecError.of(where, f"is not in raypipe; {instead}" if instead else hint)
    found = found_at(REGISTRY[type_name]) if type_name in REGISTRY else imported(type_name)
    if not (isinstance(found, type) and issubclass(found, AnyStep)):
        problem = (
            f"is not a step but a {type(found).__name__}; name a subclass of Step or a function decorated with @step"
        )
        raise SpecError.of(where, problem)
    return found
