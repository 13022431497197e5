"""I turn rows into rows: the steps by type name, loaded when they are first asked for.

I do not know how steps are joined or run. Importing me loads no step, so a pipeline pays only for
the steps it names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypipe.elsewhere import instead_of, missing
from raypipe.errors import SpecError, Violation, nearest
from raypipe.naming import found_at, imported
from raypipe.step import Step as AnyStep

if TYPE_CHECKING:
    from raypipe.branching import Meet
    from raypipe.callback import Callback
    from raypipe.repeating import Candidates, Until
    from raypipe.step import Aggregate, StepResources
    from raypipe.steps.batching import (
        GeneratorStep,
        GeneratorStepOutput,
        GlobalStep,
        RuntimeParameter,
        Step,
        StepInput,
        StepOutput,
    )
    from raypipe.steps.chatting import ChatGeneration
    from raypipe.steps.chunking import ChunkText
    from raypipe.steps.classifier_scores import ClassifierScore
    from raypipe.steps.classifying import TextClassification
    from raypipe.steps.columns import KeepColumns
    from raypipe.steps.combination_sampler import CombinationSampler
    from raypipe.steps.combining import CombineColumns, CombineOutputs, GroupColumns
    from raypipe.steps.dedup import MinHashDedup
    from raypipe.steps.embedding import EmbeddingGeneration
    from raypipe.steps.evolving import EvolInstruct
    from raypipe.steps.file_system_loader import LoadDataFromFileSystem
    from raypipe.steps.filtering import Filter
    from raypipe.steps.formatting import (
        FormatChatGenerationDPO,
        FormatChatGenerationSFT,
        FormatTextGenerationDPO,
        FormatTextGenerationSFT,
    )
    from raypipe.steps.functions import step
    from raypipe.steps.given_datasets import LoadDataFromArrow, make_generator_step
    from raypipe.steps.hub_loaders import LoadDataFromDisk, LoadDataFromHub
    from raypipe.steps.hub_loaders import LoadDataFromHub as LoadHubDataset
    from raypipe.steps.instructing import SelfInstruct
    from raypipe.steps.judging import UltraFeedback
    from raypipe.steps.list_extension import ListExtension
    from raypipe.steps.loaders import LoadDataFromDicts, LoadDataFromFiles
    from raypipe.steps.magpie import Magpie, MagpieGenerator
    from raypipe.steps.merging_columns import ExpandColumns, MergeColumns
    from raypipe.steps.own_tasks import Task, task
    from raypipe.steps.preference import PreferencePair
    from raypipe.steps.rewarding import RewardModelScore
    from raypipe.steps.sampling import DataSampler
    from raypipe.steps.sentence_pairs import GenerateSentencePair
    from raypipe.steps.structured_generation import StructuredGeneration
    from raypipe.steps.text_generation import TextGeneration
    from raypipe.steps.tree_generation import TreeGeneration

REGISTRY: dict[str, str] = {
    "Aggregate": "raypipe.step:Aggregate",
    "Callback": "raypipe.callback:Callback",
    "Candidates": "raypipe.repeating:Candidates",
    "ChatGeneration": "raypipe.steps.chatting:ChatGeneration",
    "ChunkText": "raypipe.steps.chunking:ChunkText",
    "ClassifierScore": "raypipe.steps.classifier_scores:ClassifierScore",
    "CombinationSampler": "raypipe.steps.combination_sampler:CombinationSampler",
    "CombineColumns": "raypipe.steps.combining:CombineColumns",
    "CombineOutputs": "raypipe.steps.combining:CombineOutputs",
    "DataSampler": "raypipe.steps.sampling:DataSampler",
    "EmbeddingGeneration": "raypipe.steps.embedding:EmbeddingGeneration",
    "EvolInstruct": "raypipe.steps.evolving:EvolInstruct",
    "ExpandColumns": "raypipe.steps.merging_columns:ExpandColumns",
    "Filter": "raypipe.steps.filtering:Filter",
    "FormatChatGenerationDPO": "raypipe.steps.formatting:FormatChatGenerationDPO",
    "FormatChatGenerationSFT": "raypipe.steps.formatting:FormatChatGenerationSFT",
    "FormatTextGenerationDPO": "raypipe.steps.formatting:FormatTextGenerationDPO",
    "FormatTextGenerationSFT": "raypipe.steps.formatting:FormatTextGenerationSFT",
    "GenerateSentencePair": "raypipe.steps.sentence_pairs:GenerateSentencePair",
    "GroupColumns": "raypipe.steps.combining:GroupColumns",
    "KeepColumns": "raypipe.steps.columns:KeepColumns",
    "ListExtension": "raypipe.steps.list_extension:ListExtension",
    "LoadDataFromArrow": "raypipe.steps.given_datasets:LoadDataFromArrow",
    "LoadDataFromDicts": "raypipe.steps.loaders:LoadDataFromDicts",
    "LoadDataFromDisk": "raypipe.steps.hub_loaders:LoadDataFromDisk",
    "LoadDataFromFileSystem": "raypipe.steps.file_system_loader:LoadDataFromFileSystem",
    "LoadDataFromFiles": "raypipe.steps.loaders:LoadDataFromFiles",
    "LoadDataFromHub": "raypipe.steps.hub_loaders:LoadDataFromHub",
    "Magpie": "raypipe.steps.magpie:Magpie",
    "MagpieGenerator": "raypipe.steps.magpie:MagpieGenerator",
    "Meet": "raypipe.branching:Meet",
    "MergeColumns": "raypipe.steps.merging_columns:MergeColumns",
    "MinHashDedup": "raypipe.steps.dedup:MinHashDedup",
    "PreferencePair": "raypipe.steps.preference:PreferencePair",
    "RewardModelScore": "raypipe.steps.rewarding:RewardModelScore",
    "SelfInstruct": "raypipe.steps.instructing:SelfInstruct",
    "StructuredGeneration": "raypipe.steps.structured_generation:StructuredGeneration",
    "TextClassification": "raypipe.steps.classifying:TextClassification",
    "TextGeneration": "raypipe.steps.text_generation:TextGeneration",
    "TreeGeneration": "raypipe.steps.tree_generation:TreeGeneration",
    "UltraFeedback": "raypipe.steps.judging:UltraFeedback",
    "Until": "raypipe.repeating:Until",
    "WorkflowStep": "raypipe.workflows.workflow_step:WorkflowStep",
}
"""Where each step type stands."""

_EXPORTS = REGISTRY | {
    "LoadHubDataset": "raypipe.steps.hub_loaders:LoadDataFromHub",
    "GeneratorStep": "raypipe.steps.batching:GeneratorStep",
    "GeneratorStepOutput": "raypipe.steps.batching:GeneratorStepOutput",
    "GlobalStep": "raypipe.steps.batching:GlobalStep",
    "RuntimeParameter": "raypipe.steps.batching:RuntimeParameter",
    "Step": "raypipe.steps.batching:Step",
    "StepInput": "raypipe.steps.batching:StepInput",
    "StepOutput": "raypipe.steps.batching:StepOutput",
    "StepResources": "raypipe.step:StepResources",
    "Task": "raypipe.steps.own_tasks:Task",
    "make_generator_step": "raypipe.steps.given_datasets:make_generator_step",
    "step": "raypipe.steps.functions:step",
    "task": "raypipe.steps.own_tasks:task",
}

__all__ = [
    "REGISTRY",
    "Aggregate",
    "Callback",
    "Candidates",
    "ChatGeneration",
    "ChunkText",
    "ClassifierScore",
    "CombinationSampler",
    "CombineColumns",
    "CombineOutputs",
    "DataSampler",
    "EmbeddingGeneration",
    "EvolInstruct",
    "ExpandColumns",
    "Filter",
    "FormatChatGenerationDPO",
    "FormatChatGenerationSFT",
    "FormatTextGenerationDPO",
    "FormatTextGenerationSFT",
    "GenerateSentencePair",
    "GeneratorStep",
    "GeneratorStepOutput",
    "GlobalStep",
    "GroupColumns",
    "KeepColumns",
    "ListExtension",
    "LoadDataFromArrow",
    "LoadDataFromDicts",
    "LoadDataFromDisk",
    "LoadDataFromFileSystem",
    "LoadDataFromFiles",
    "LoadDataFromHub",
    "LoadHubDataset",
    "Magpie",
    "MagpieGenerator",
    "Meet",
    "MergeColumns",
    "MinHashDedup",
    "PreferencePair",
    "RewardModelScore",
    "RuntimeParameter",
    "SelfInstruct",
    "Step",
    "StepInput",
    "StepOutput",
    "StepResources",
    "StructuredGeneration",
    "Task",
    "TextClassification",
    "TextGeneration",
    "TreeGeneration",
    "UltraFeedback",
    "Until",
    "make_generator_step",
    "resolve",
    "step",
    "task",
]


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
        instead = instead_of(type_name)
        raise SpecError(violations=[Violation(where, f"is not in raypipe; {instead}" if instead else hint)])
    found = found_at(REGISTRY[type_name]) if type_name in REGISTRY else imported(type_name)
    if not (isinstance(found, type) and issubclass(found, AnyStep)):
        problem = f"is no step but a {type(found).__name__}; name a subclass of Step or a function decorated with @step"
        raise SpecError(violations=[Violation(where, problem)])
    return found
