"""Has a model write sentences that belong to a given one, as embedding models are trained on.

Knows nothing of how close they come: nothing is measured here.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from raypipe.contracts.llm import Caller
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.answers.structured import ask_structured
from raypipe.steps.llm.llm_step import SchemaStep
from raypipe.steps.prompts.inputs import chat_request, text_of

Action = Literal["paraphrase", "semantically-similar", "query", "answer"]

_POSITIVE: dict[Action, str] = {
    "paraphrase": "says the same as the anchor in other words",
    "semantically-similar": "is not the anchor in other words but close to it in meaning: same subject, same concern",
    "query": "is a question or search query that the anchor answers",
    "answer": "answers the question or query that the anchor is",
}
_NEGATIVE: dict[Action, str] = {
    "paraphrase": "says something else",
    "semantically-similar": "has another meaning",
    "query": "is a question or search query that the anchor does not answer",
    "answer": "is no answer to the anchor",
}
_EASY = "A reader sees at once that it does not belong to the anchor."
_HARD = "It shares words, subject or form with the anchor, so that only a careful reader sees that it does not belong."


class GenerateSentencePair(SchemaStep):
    """Reads `anchor` and writes `positive`, with `triplet` also `negative`."""

    read_columns: ClassVar[tuple[str, ...]] = ("anchor",)

    action: Action
    """What the positive is to the anchor."""
    triplet: bool = False
    """A sentence that does not belong to the anchor is written too."""
    hard_negative: bool = False
    """The negative looks as if it belonged to the anchor."""
    context: str = ""
    """What the sentences are for, as the model should know it."""

    def answer_types(self) -> dict[str, str]:
        return {"positive": "string"} | ({"negative": "string"} if self.triplet else {})

    def problems(self) -> list[str]:
        found = super().problems()
        if self.hard_negative and not self.triplet:
            found.append("hard_negative needs a negative; set triplet=True or leave it out")
        return found

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        names = list(self.answer_types())
        schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": names}
        value, _ = await ask_structured(llm, chat_request(self._prompt(text_of(row, "anchor"))), schema, sample)
        made = {name: value[name].strip() for name in names}
        for name, text in made.items():
            if not text:
                raise RowError(f"the completion has no {name}, only white space", kind="parse")
        return made

    def _prompt(self, anchor: str) -> str:
        parts = [
            f"Below is a text, the anchor. Write a 'positive': a text that {_POSITIVE[self.action]}.",
            f"Write a 'negative' too: a text that {_NEGATIVE[self.action]}. {_HARD if self.hard_negative else _EASY}"
            if self.triplet
            else "",
            "Write in the language of the anchor.",
            f"## Context\n{self.context}" if self.context else "",
            f"## Anchor\n{anchor}",
            "Answer as JSON and nothing else: {" + ", ".join(f'"{name}": "…"' for name in self.answer_types()) + "}",
        ]
        return "\n\n".join(part for part in parts if part)
