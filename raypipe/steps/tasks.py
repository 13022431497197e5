"""I name the steps that ask a model.

I do not know how they do it; each stands in a module of its own, loaded when it is first asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypipe import steps
from raypipe.elsewhere import missing

if TYPE_CHECKING:
    from raypipe.steps.chatting import ChatGeneration
    from raypipe.steps.classifying import TextClassification
    from raypipe.steps.evolving import EvolInstruct
    from raypipe.steps.instructing import SelfInstruct
    from raypipe.steps.judging import UltraFeedback
    from raypipe.steps.list_extension import ListExtension
    from raypipe.steps.magpie import Magpie, MagpieGenerator
    from raypipe.steps.own_tasks import Task, task
    from raypipe.steps.sentence_pairs import GenerateSentencePair
    from raypipe.steps.structured_generation import StructuredGeneration
    from raypipe.steps.text_generation import TextGeneration
    from raypipe.steps.tree_generation import TreeGeneration

__all__ = [
    "ChatGeneration",
    "EvolInstruct",
    "GenerateSentencePair",
    "ListExtension",
    "Magpie",
    "MagpieGenerator",
    "SelfInstruct",
    "StructuredGeneration",
    "Task",
    "TextClassification",
    "TextGeneration",
    "TreeGeneration",
    "UltraFeedback",
    "task",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise missing(__name__, name, __all__)
    return getattr(steps, name)
