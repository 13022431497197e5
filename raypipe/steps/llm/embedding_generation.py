"""Turns a text into a vector.

Knows nothing of what the vector is for.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

from pydantic import Field, model_validator

from raypipe.contracts.llm import Caller, Request
from raypipe.contracts.step import Output
from raypipe.row import MODEL_NAME, Values
from raypipe.steps.llm.pooling_step import PoolingStep, ask_numbers
from raypipe.steps.prompts.inputs import text_of


class EmbeddingGeneration(PoolingStep):
    """Reads `text` and writes `embedding`, a list of numbers, and `model_name`.

    `llm` is an embedding model; it may be called `embeddings` here. The text is sent as it stands.
    """

    read_columns: ClassVar[tuple[str, ...]] = ("text",)
    written_columns: ClassVar[Mapping[str, str]] = {"embedding": "list<float>", MODEL_NAME: "string"}

    dimensions: int | None = Field(default=None, ge=1)
    """Length of the embedding, where the model can shorten its own."""

    @model_validator(mode="before")
    @classmethod
    def _under_one_name(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping) or "embeddings" not in fields:
            return fields
        given = dict(cast("Mapping[str, Any]", fields))
        if given.get("llm") is not None:
            raise ValueError("llm and embeddings both name the model; keep one")
        return given | {"llm": given.pop("embeddings")}

    def request(self, content: str) -> Request:
        return Request(prompt=content, pool="embed", numbers=self.dimensions)

    async def process_row(self, row: Values, llm: Caller) -> Output:
        vector = await ask_numbers(llm, self.request(text_of(row, "text")))
        return {"embedding": vector, MODEL_NAME: llm.label}
