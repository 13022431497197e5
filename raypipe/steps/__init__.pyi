"""The types of what `__init__.py` loads by its table when it is first asked for."""

from raypipe.contracts.step import Aggregate as Aggregate
from raypipe.contracts.step import Step as AnyStep
from raypipe.contracts.step import StepResources as StepResources
from raypipe.graph.branching import Meet as Meet
from raypipe.graph.callback import Callback as Callback
from raypipe.graph.repeat import Candidates as Candidates
from raypipe.graph.repeat import Until as Until
from raypipe.steps.columns.chunk_text import ChunkText as ChunkText
from raypipe.steps.columns.combine_columns import CombineColumns as CombineColumns
from raypipe.steps.columns.combine_columns import CombineOutputs as CombineOutputs
from raypipe.steps.columns.combine_columns import GroupColumns as GroupColumns
from raypipe.steps.columns.filter import Filter as Filter
from raypipe.steps.columns.formatting import FormatChatGenerationDPO as FormatChatGenerationDPO
from raypipe.steps.columns.formatting import FormatChatGenerationSFT as FormatChatGenerationSFT
from raypipe.steps.columns.formatting import FormatTextGenerationDPO as FormatTextGenerationDPO
from raypipe.steps.columns.formatting import FormatTextGenerationSFT as FormatTextGenerationSFT
from raypipe.steps.columns.keep_columns import KeepColumns as KeepColumns
from raypipe.steps.columns.merge_columns import ExpandColumns as ExpandColumns
from raypipe.steps.columns.merge_columns import MergeColumns as MergeColumns
from raypipe.steps.columns.min_hash_dedup import MinHashDedup as MinHashDedup
from raypipe.steps.columns.preference_pair import PreferencePair as PreferencePair
from raypipe.steps.functions.batch_steps import GeneratorStep as GeneratorStep
from raypipe.steps.functions.batch_steps import GeneratorStepOutput as GeneratorStepOutput
from raypipe.steps.functions.batch_steps import GlobalStep as GlobalStep
from raypipe.steps.functions.batch_steps import RuntimeParameter as RuntimeParameter
from raypipe.steps.functions.batch_steps import Step as Step
from raypipe.steps.functions.batch_steps import StepInput as StepInput
from raypipe.steps.functions.batch_steps import StepOutput as StepOutput
from raypipe.steps.functions.step_functions import step as step
from raypipe.steps.llm.chat_generation import ChatGeneration as ChatGeneration
from raypipe.steps.llm.classifier_score import ClassifierScore as ClassifierScore
from raypipe.steps.llm.custom_tasks import Task as Task
from raypipe.steps.llm.custom_tasks import task as task
from raypipe.steps.llm.embedding_generation import EmbeddingGeneration as EmbeddingGeneration
from raypipe.steps.llm.evol_instruct import EvolInstruct as EvolInstruct
from raypipe.steps.llm.generate_sentence_pair import GenerateSentencePair as GenerateSentencePair
from raypipe.steps.llm.list_extension import ListExtension as ListExtension
from raypipe.steps.llm.magpie import Magpie as Magpie
from raypipe.steps.llm.magpie import MagpieGenerator as MagpieGenerator
from raypipe.steps.llm.reward_model_score import RewardModelScore as RewardModelScore
from raypipe.steps.llm.self_instruct import SelfInstruct as SelfInstruct
from raypipe.steps.llm.structured_generation import StructuredGeneration as StructuredGeneration
from raypipe.steps.llm.text_classification import TextClassification as TextClassification
from raypipe.steps.llm.text_generation import TextGeneration as TextGeneration
from raypipe.steps.llm.tree_generation import TreeGeneration as TreeGeneration
from raypipe.steps.llm.ultra_feedback import UltraFeedback as UltraFeedback
from raypipe.steps.sources.combination_sampler import CombinationSampler as CombinationSampler
from raypipe.steps.sources.data_sampler import DataSampler as DataSampler
from raypipe.steps.sources.file_system_loader import LoadDataFromFileSystem as LoadDataFromFileSystem
from raypipe.steps.sources.hub_loaders import LoadDataFromDisk as LoadDataFromDisk
from raypipe.steps.sources.hub_loaders import LoadDataFromHub as LoadDataFromHub
from raypipe.steps.sources.hub_loaders import LoadDataFromHub as LoadHubDataset
from raypipe.steps.sources.in_memory_datasets import LoadDataFromArrow as LoadDataFromArrow
from raypipe.steps.sources.in_memory_datasets import make_generator_step as make_generator_step
from raypipe.steps.sources.loaders import LoadDataFromDicts as LoadDataFromDicts
from raypipe.steps.sources.loaders import LoadDataFromFiles as LoadDataFromFiles

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

REGISTRY: dict[str, str]

def resolve(type_name: str) -> type[AnyStep]: ...
