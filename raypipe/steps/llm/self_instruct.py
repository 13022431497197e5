"""Has a model think of instructions that an application may be given.

Knows nothing of what answers them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import Field, WithJsonSchema, create_model

from raypipe.contracts.llm import Caller
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.answers.structured import Structure, ask_structured, structure_of
from raypipe.steps.llm.llm_step import SchemaStep
from raypipe.steps.prompts.inputs import chat_request, text_of

_CRITERIA = (
    "Use a different verb and a different form for each: questions, orders, requests with material to work on. "
    "Each stands for itself, asks for something that can be answered in text, and fits what the application is for. "
    "Some are short, some give details; easy and hard ones take turns."
)
_LONGEST = 500
"""Characters of an instruction. A model that writes under the schema comes to an end; other answers may be longer."""


class SelfInstruct(SchemaStep):
    """Reads `input`, a topic or a piece of text, and writes `instructions`: a list of at most `num_instructions`."""

    read_columns: ClassVar[tuple[str, ...]] = ("input",)
    output_types: ClassVar[Mapping[str, str]] = {"instructions": "list<string>"}

    num_instructions: int = Field(default=5, ge=1)
    """Instructions wanted for each input."""
    criteria_for_query_generation: str = _CRITERIA
    """What makes an instruction a good one."""
    application_description: str = "An assistant that answers in text."
    """Who is given the instructions."""

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        prompt = (
            f"Users give instructions to this application:\n{self.application_description}\n\n"
            f"Write {self.num_instructions} instructions that they might give it about the input below.\n"
            f"{self.criteria_for_query_generation}\n\n"
            f"## Input\n{text_of(row, 'input')}\n\n"
            'Answer as JSON and nothing else: {"instructions": ["…"]}'
        )
        value, _ = await ask_structured(llm, chat_request(prompt), _structure(self.num_instructions), sample)
        texts = (text.strip() for text in value["instructions"])
        instructions = list(dict.fromkeys(text for text in texts if text))[: self.num_instructions]
        if not instructions:
            raise RowError("the completion has no instructions", kind="parse")
        return {"instructions": instructions}


@lru_cache(maxsize=64)
def _structure(count: int) -> Structure:
    """A list of up to `count` instructions."""
    items = {"type": "string", "minLength": 1, "maxLength": _LONGEST}
    schema = {"type": "array", "items": items, "minItems": 1, "maxItems": count}
    listed: Any = Annotated[list[str], WithJsonSchema(schema)]
    return structure_of(create_model("Instructions", instructions=(listed, ...)))
