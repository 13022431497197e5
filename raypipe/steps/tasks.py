"""Names the steps that ask a model, as distilabel groups them; each is loaded when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raypipe import steps
from raypipe.contracts.distilabel_names import missing

if TYPE_CHECKING:
    from raypipe.steps import (
        ChatGeneration,
        EvolInstruct,
        GenerateSentencePair,
        ListExtension,
        Magpie,
        MagpieGenerator,
        SelfInstruct,
        StructuredGeneration,
        Task,
        TextClassification,
        TextGeneration,
        TreeGeneration,
        UltraFeedback,
        task,
    )

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
