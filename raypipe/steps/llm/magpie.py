"""Has a model write both sides of a conversation: where the user's turn begins, it goes on as the user.

Knows nothing of how a prompt reaches it without chat template. The idea is Magpie's (https://arxiv.org/abs/2406.08464).
Which system prompt a row takes follows from the row's identity and the seed, so a rerun asks the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from raypipe.contracts.llm import Caller, Message, Request
from raypipe.contracts.model_pool import first_of
from raypipe.contracts.step import Columns, Source, Unit
from raypipe.errors import SpecError
from raypipe.identity import canonical_json, digest
from raypipe.row import ROW_ID, Values
from raypipe.steps.answers.structured import ask_whole_text
from raypipe.steps.late_options import missing_option
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.prompts.inputs import text_of
from raypipe.steps.prompts.pre_query import NO_TURNS, pre_query
from raypipe.steps.sources.loaders import BATCH_ROWS

if TYPE_CHECKING:
    import pyarrow as pa

_SEVERAL_TURNS = (
    "You are a helpful assistant. The user talks with you over several turns: a first question, then others that build "
    "on what you said. Answer each one thoroughly and to the point."
)
_NUMBER = "number"
_VARIANTS = 2**31

SystemPrompts = str | list[str] | dict[str, str] | dict[str, tuple[str, float]]


class Magpie(LLMStep):
    """Writes `instruction` and `response`, as the model says them in the user's turn and in its own.

    With `only_instruction` it writes `instruction`; with `n_turns` above 1, `end_with_user` or `include_system_prompt`
    the one column `conversation`, a list of messages. A column `system_prompt`, where rows have it, comes before the
    option of that name; of several prompts each row takes one, and where they have names, `system_prompt_key` is its.

    The model must have a `magpie_pre_query_template`. A row asks once for each turn, one after the other.
    """

    is_told_identity: ClassVar[bool] = True
    optional_columns: ClassVar[tuple[str, ...]] = ("system_prompt",)

    n_turns: int = Field(default=1, ge=1)
    """Turns of the user and the model together."""
    end_with_user: bool = False
    """The model's last turn is left out."""
    include_system_prompt: bool = False
    """The system prompt is the first message of `conversation`."""
    only_instruction: bool = False
    """What the user says first is all that is wanted; `n_turns` says nothing then."""
    system_prompt: SystemPrompts | None = None
    """A prompt, or several to choose from: a list, prompts by name, or (prompt, weight) by name.

    Without one, a conversation of several turns has a prompt that says so.
    """
    seed: int = 42
    """Another seed chooses other system prompts, and for a model with a seed other instructions."""

    @field_validator("system_prompt")
    @classmethod
    def _can_be_chosen(cls, prompts: SystemPrompts | None) -> SystemPrompts | None:
        if prompts is None or isinstance(prompts, str):
            return prompts
        if not prompts:
            raise ValueError("there is no prompt to choose; write one, or leave the option out")
        weights = [weight for _, _, weight in _choices(prompts)]
        if min(weights) < 0 or not 0 < sum(weights) < float("inf"):
            raise ValueError("weights are numbers from 0 on, and one of them is more than 0")
        return prompts

    def answer_types(self) -> dict[str, str]:
        types = {"instruction": "string"}
        if self._is_conversation:
            types = {"conversation": ""}
        elif not self.only_instruction:
            types["response"] = "string"
        return types | ({"system_prompt_key": "string"} if isinstance(self.system_prompt, dict) else {})

    @property
    def _is_conversation(self) -> bool:
        return not self.only_instruction and (self.n_turns > 1 or self.end_with_user or self.include_system_prompt)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.llm is None:
            return found
        template = first_of(self.llm).pre_query
        if template is None:
            problem = (
                f"model {self.llm.label!r} has no magpie_pre_query_template, so it cannot be made to speak as a user; "
                'give it "llama3", "qwen2" or the text that begins a user\'s turn in its chat template'
            )
            return [*found, problem]
        try:
            has_turns = pre_query(template).writes_turns
        except SpecError as error:
            return [*found, str(error)]
        if not has_turns and (self.system_prompt or (self.n_turns > 1 and not self.only_instruction)):
            wanted = "a system prompt" if self.system_prompt else "several turns"
            found.append(f"wants {wanted}, but {NO_TURNS}")
        return found

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        key, system = self._choose_prompt(row, sample)
        messages: list[Message] = [{"role": "system", "content": system}] if system else []
        for turn in range(1 if self.only_instruction else self.n_turns):
            messages.append({"role": "user", "content": await self._speak_as_user(messages, row, llm, sample)})
            if self.only_instruction or (self.end_with_user and turn == self.n_turns - 1):
                break
            completion = await llm.complete(Request(tuple(messages)), sample=sample)
            messages.append({"role": "assistant", "content": completion.text.strip()})
        if system and not (self.include_system_prompt and self._is_conversation):
            messages = messages[1:]
        said = [messages] if self._is_conversation else [message["content"] for message in messages]
        return dict(zip(self.answer_types(), [*said, key], strict=False))

    async def _speak_as_user(self, messages: list[Message], row: Values, llm: Caller, sample: int) -> str:
        """What the user says next. Raises RowError when it is cut or empty: nothing can be answered then."""
        template = pre_query((self.llm and first_of(self.llm).pre_query) or "")
        stop = (template.end,) if template.end else ()
        variant = self._draw(b"variant", row, sample) % _VARIANTS
        request = Request(prompt=template.prompt(messages), stop=stop, variant=variant)
        return await ask_whole_text(llm, request, sample, "the user says nothing")

    def _choose_prompt(self, row: Values, sample: int) -> tuple[str | None, str]:
        """The key and the text of the system prompt."""
        if row.get("system_prompt") is not None:
            return None, text_of(row, "system_prompt")
        if self.system_prompt is None:
            return None, _SEVERAL_TURNS if self.n_turns > 1 and not self.only_instruction else ""
        choices = _choices(self.system_prompt)
        left = self._draw(b"system_prompt", row, sample) / 2**128 * sum(weight for _, _, weight in choices)
        for key, prompt, weight in choices:
            left -= weight
            if left < 0:
                return key, prompt
        # Rounding may leave a little.
        return next((key, prompt) for key, prompt, weight in reversed(choices) if weight)

    def _draw(self, purpose: bytes, row: Values, sample: int) -> int:
        """A number below 2**128 that follows from the row's identity and the seed."""
        return int.from_bytes(digest(purpose, row[ROW_ID], canonical_json([self.seed, sample])))


class MagpieGenerator(Magpie):
    """`Magpie` from nothing: `num_rows` rows, where no step stands before it."""

    consumed_columns: ClassVar[tuple[str, ...]] = (_NUMBER,)
    optional_columns: ClassVar[tuple[str, ...]] = ()

    num_rows: int | None = Field(default=None, ge=1)
    """Rows wanted. More of them begin with the fewer."""

    def own_source(self) -> Source | None:
        return NumberedRows(count=self.num_rows or 0)

    def problems(self) -> list[str]:
        found = [*super().problems(), *missing_option(self, "num_rows")]
        prompts = 1 if self.system_prompt is None else len(_choices(self.system_prompt))
        if self.llm is not None and first_of(self.llm).temperature == 0 and (self.num_rows or 0) > prompts:
            found.append("makes equal rows of a model with temperature=0; leave the temperature out, or raise it")
        return found


class NumberedRows(Source):
    """Rows that hold nothing but a number."""

    count: int

    def columns(self) -> Columns:
        return (_NUMBER,)

    def row_count(self) -> int | None:
        return self.count

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        import pyarrow as pa

        for start in range(0, self.count, BATCH_ROWS):
            yield pa.table({_NUMBER: range(start, min(start + BATCH_ROWS, self.count))})


def _choices(prompts: SystemPrompts) -> list[tuple[str | None, str, float]]:
    """Key, text and weight of each prompt."""
    if isinstance(prompts, str):
        return [(None, prompts, 1.0)]
    if isinstance(prompts, list):
        return [(None, prompt, 1.0) for prompt in prompts]
    return [(key, *(one if isinstance(one, tuple) else (one, 1.0))) for key, one in prompts.items()]
