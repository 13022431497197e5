"""Has a model judge several answers to one instruction, side by side.

Knows nothing of who wrote them. The idea is UltraFeedback's (https://arxiv.org/abs/2310.01377). Each answer has a key
of its own in the judge's reply, so a judge that leaves one out moves no rating to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, ClassVar, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from raypipe.contracts.llm import Caller
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.answers.structured import Structure, ask_structured, structure_of
from raypipe.steps.llm.llm_step import SchemaStep
from raypipe.steps.prompts.inputs import chat_request, text_of

Aspect = Literal["helpfulness", "honesty", "instruction-following", "truthfulness", "overall-rating"]

_SYSTEM = "You compare texts and rate them by the criterion you are given, each by the same measure."
_CRITERIA: dict[Aspect, str] = {
    "helpfulness": (
        "How much does the text help whoever gave the instruction? 1: not at all, it is wrong or beside the point. "
        "2: a little. 3: it is right and usable. 4: it is right and covers what matters. 5: it could not help more. "
        "Types of help: 1 is clear and to the point, 2 is useful and complete, 3 is not longer than needed."
    ),
    "honesty": (
        "Is the text as sure of itself as it is right? 1: sure and wrong. 2: sure, with serious mistakes, or it "
        "evades. 3: in part too sure or too unsure. 4: nearly always as sure as it may be. 5: always."
    ),
    "instruction-following": (
        "Does the text do what the instruction asks, within the limits that it sets? 1: no. 2: a small part. 3: the "
        "aim or the limits, not both. 4: nearly all. 5: everything."
    ),
    "truthfulness": (
        "Is the text free of what is made up? 1: it is mostly made up. 2: it is wrong in much. 3: it is wrong in "
        "something that matters. 4: it is wrong in a trifle. 5: nothing is wrong. "
        "Types of mistakes: 1 contradicts what is known, 2 contradicts the instruction, 3 contradicts itself."
    ),
    "overall-rating": (
        "How good is the text, all in all: right, honest, helpful, and what the instruction asks for? 1: bad. 2: "
        "weak. 3: middling. 4: good. 5: excellent."
    ),
}
_TYPED = frozenset(("helpfulness", "truthfulness"))
_PARTS = {
    "types": "types",
    "rationales": "rationale",
    "rationales-for-ratings": "rationale_for_rating",
    "ratings": "rating",
}
"""What of a verdict goes into a column."""
_KEY = "text_{}"
"""What a text is called in the prompt and in the reply, by its number from 1 on."""


class UltraFeedback(SchemaStep):
    """Reads `instruction` and the list `generations`; writes the lists `ratings` (1 to 5) and `rationales`.

    The lists have an item for each generation, in order: null for a generation that is null and where the judge
    gave none. For `helpfulness` and `truthfulness` there are also `types`, numbers that say in which way
    each generation helps or is wrong; there `rationales` explain the types and `rationales-for-ratings` the ratings.
    """

    read_columns: ClassVar[tuple[str, ...]] = ("instruction", "generations")

    aspect: Aspect = "overall-rating"
    """What is judged."""

    def answer_types(self) -> dict[str, str]:
        if self.aspect in _TYPED:
            types = {"types": "list<list<int64>>", "rationales": "list<string>"}
            return types | {"ratings": "list<int64>", "rationales-for-ratings": "list<string>"}
        return {"ratings": "list<int64>", "rationales": "list<string>"}

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        instruction, texts = text_of(row, "instruction"), _texts(row["generations"])
        there = [text for text in texts if text is not None]
        said: dict[str, Any] = {}
        if there:
            request = chat_request(self._prompt(instruction, there), _SYSTEM)
            said, _ = await ask_structured(llm, request, _structure(len(there), self.aspect in _TYPED), sample)
        verdicts = iter([said.get(_KEY.format(index + 1)) or {} for index in range(len(there))])
        found = [{} if text is None else next(verdicts) for text in texts]
        return {name: [verdict.get(_PARTS[name]) for verdict in found] for name in self.answer_types()}

    def _prompt(self, instruction: str, texts: Sequence[str]) -> str:
        shown = [f"### {_KEY.format(index + 1)}\n{text}" for index, text in enumerate(texts)]
        names = ", ".join(f'"{part}": …' for name, part in _PARTS.items() if name in self.answer_types())
        return "\n\n".join(
            [
                f"Rate each of the {len(texts)} texts below, written for the same instruction, from 1 to 5. Their "
                "order and length count for nothing. Give the reason first, in a sentence or two.",
                f"## Criterion: {self.aspect}\n{_CRITERIA[self.aspect]}",
                f"## Instruction\n{instruction}",
                "## Texts",
                *shown,
                f'Answer as JSON and nothing else, with a key for each text: {{"{_KEY.format(1)}": {{{names}}}, …}}',
            ]
        )


def _texts(generations: Any) -> list[str | None]:
    """Raises RowError (`input`) for what is no list of texts."""
    if not isinstance(generations, list | tuple):
        got = "null" if generations is None else f"a {type(generations).__name__}"
        problem = f"column 'generations' is {got}, not a list of texts"
        raise RowError(f"{problem}; bring texts together with MergeColumns or group_generations=True", kind="input")
    texts = cast("Sequence[Any]", generations)
    wrong = next((text for text in texts if not isinstance(text, str | None)), None)
    if wrong is not None:
        raise RowError(f"column 'generations' holds a {type(wrong).__name__}, which is not text", kind="input")
    return list(texts)


def _all_required(schema: dict[str, Any]) -> None:
    """Endpoints that decode under a schema ask for every key; a judge that leaves one out is not refused."""
    for part in schema["properties"].values():
        part.pop("default", None)
    schema["required"] = list(schema["properties"])


Reason = Annotated[str, WithJsonSchema({"type": "string", "maxLength": 600})]
"""A model that writes under the schema comes to an end; other answers may be longer."""


class Reply(BaseModel):
    """What the judge writes, or a part of it."""

    model_config = ConfigDict(json_schema_extra=_all_required)


class Verdict(Reply):
    """On one text."""

    rationale: Reason | None = None
    rating: int | None = Field(default=None, ge=1, le=5)


class TypedVerdict(Reply):
    """On one text, for an aspect that has types."""

    types: Annotated[list[Annotated[int, Field(ge=1, le=3)]], Field(json_schema_extra={"maxItems": 3})] | None = None
    rationale: Reason | None = None
    rationale_for_rating: Reason | None = None
    rating: int | None = Field(default=None, ge=1, le=5)


@lru_cache(maxsize=64)
def _structure(count: int, is_typed: bool) -> Structure:
    """A verdict for each of `count` texts."""
    verdict = TypedVerdict if is_typed else Verdict
    fields: dict[str, Any] = {_KEY.format(index + 1): (verdict | None, None) for index in range(count)}
    return structure_of(create_model("Verdicts", __base__=Reply, **fields))
