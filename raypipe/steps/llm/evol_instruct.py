"""Has a model make instructions harder, round after round.

Knows nothing of how hard an instruction is. The idea is Evol-Instruct's (WizardLM, https://arxiv.org/abs/2304.12244);
which mutation a round takes follows from the instruction's own text and the seed, so a rerun asks the same.
"""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from raypipe.contracts.llm import Caller
from raypipe.identity import canonical_json, digest
from raypipe.row import Values
from raypipe.steps.answers.structured import ask_whole_text
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.prompts.inputs import chat_request, text_of

_PLACE = "<PROMPT>"
_HARDER = (
    "Below is an instruction for a language model. Write a new version of it. {change} The new version can still be "
    "understood and answered by people, is only a little longer, and keeps tables, code and other material of the "
    "old one. Do not answer it, and do not mention the old one: reply with the new instruction alone.\n\n"
    "## Instruction\n<PROMPT>"
)
_WIDER = (
    "Below is an instruction for a language model. Invent another one from the same field: about something rarer, as "
    "long and as difficult, and such that people can understand and answer it. Do not answer it, and do not mention "
    "the first: reply with the new instruction alone.\n\n## Instruction\n<PROMPT>"
)
MUTATIONS: dict[str, str] = {
    "constraints": _HARDER.format(change="Add one more condition or requirement that an answer must meet."),
    "deepening": _HARDER.format(change="Ask the same with more depth and breadth: what lies behind it, what follows."),
    "concretizing": _HARDER.format(change="Put something more specific in the place of a general idea."),
    "reasoning": _HARDER.format(change="Make it so that an answer needs several steps of reasoning, not one."),
    "breadth": _WIDER,
}
"""Prompts that change an instruction, by name; the instruction takes the place of `<PROMPT>`."""


class EvolInstruct(LLMStep):
    """Reads `instruction` and writes `evolved_instruction`, with `generate_answers` also `answer`.

    With `store_evolutions` they are the lists `evolved_instructions` and `answers`, in the order of the rounds. A
    row asks `num_evolutions` times, one after the other, and once more for each answer.
    """

    read_columns: ClassVar[tuple[str, ...]] = ("instruction",)

    num_evolutions: int = Field(default=1, ge=1)
    """Rounds; each changes what the one before it made."""
    store_evolutions: bool = False
    """Every round's instruction is kept, not the last one alone."""
    generate_answers: bool = False
    """Each instruction that is kept is answered."""
    include_original_instruction: bool = False
    """`evolved_instructions` begins with the instruction itself."""
    mutation_templates: dict[str, str] | None = Field(default=None, min_length=1)
    """Prompts to choose from, in which the instruction takes the place of `<PROMPT>`; by default `MUTATIONS`."""
    seed: int = 42
    """Another seed chooses other mutations."""

    def answer_types(self) -> dict[str, str]:
        kind, end = ("list<string>", "s") if self.store_evolutions else ("string", "")
        types = {f"evolved_instruction{end}": kind}
        return types | ({f"answer{end}": kind} if self.generate_answers else {})

    def problems(self) -> list[str]:
        found = super().problems()
        if self.include_original_instruction and not self.store_evolutions:
            found.append(
                "include_original_instruction needs a list to be in; set store_evolutions=True or leave it out"
            )
        for name, template in (self.mutation_templates or {}).items():
            if _PLACE not in template:
                found.append(f"mutation_templates[{name!r}] has no {_PLACE}; write it where the instruction belongs")
        return found

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        original = text_of(row, "instruction")
        found, templates = [original], list((self.mutation_templates or MUTATIONS).values())
        for number in range(self.num_evolutions):
            chosen = digest(b"mutation", canonical_json([original, self.seed, sample, number]))
            template = templates[int.from_bytes(chosen) % len(templates)]
            request = chat_request(template.replace(_PLACE, found[-1]))
            found.append(await ask_whole_text(llm, request, sample, "there is no instruction to go on with"))
        kept = found[0 if self.include_original_instruction else 1 :] if self.store_evolutions else found[-1:]
        columns = [kept]
        if self.generate_answers:
            columns.append([(await llm.complete(chat_request(text), sample=sample)).text.strip() for text in kept])
        values = columns if self.store_evolutions else [column[0] for column in columns]
        return dict(zip(self.answer_types(), values, strict=True))
