"""Asks a classification model about a text, such as those that sort web pages by quality.

Knows nothing of what its labels mean. A model that is asked in words for labels is `TextClassification`.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field, field_validator

from raypipe.contracts.llm import Caller, Request
from raypipe.contracts.step import Output
from raypipe.row import Values
from raypipe.steps.llm.pooling_step import PoolingStep, ask_numbers, check_different, name_numbers
from raypipe.steps.prompts.inputs import text_of


class ClassifierScore(PoolingStep):
    """Reads `text` and writes `score`: the number that the classification model `llm` gives.

    With `labels` it writes `label`, the one that fits best, and `scores`, the share of each label. The text is sent as
    it stands.
    """

    read_columns: ClassVar[tuple[str, ...]] = ("text",)

    labels: list[str] | None = Field(default=None, min_length=2)
    """Names for the numbers of a model that gives several, in its order (`id2label` in its `config.json`)."""
    activation: bool = True
    """Takes what the model's activation makes of its numbers, which are shares of 1; False: the numbers themselves."""

    _are_different = field_validator("labels")(check_different)

    def writes(self) -> dict[str, str]:
        return {"label": "string", "scores": ""} if self.labels else {"score": "double"}

    def request(self, content: str) -> Request:
        pool = "classify" if self.activation else "score"
        return Request(prompt=content, pool=pool, numbers=len(self.labels or [""]))

    async def process_row(self, row: Values, llm: Caller) -> Output:
        numbers = await ask_numbers(llm, self.request(text_of(row, "text")))
        named = name_numbers(numbers, self.labels or ["score"], "labels")
        return {"label": max(named, key=lambda label: named[label]), "scores": named} if self.labels else named
