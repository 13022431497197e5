"""Has a reward model score an answer, or a whole conversation.

Knows nothing of which is chosen for its score; `PreferencePair` does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field, field_validator

from raypipe.contracts.llm import Caller, Message, Request
from raypipe.contracts.step import Columns, Output
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.llm.chat_generation import conversation_of
from raypipe.steps.llm.pooling_step import PoolingStep, ask_numbers, check_different, name_numbers
from raypipe.steps.prompts.inputs import text_of

_PAIR = ("instruction", "response")
_WHOLE = "conversation"
_LOADED = 'say it of the model: llm=LLM("vllm/…", engine={"runner": "pooling", …})'


class RewardModelScore(PoolingStep):
    """Reads `instruction` and `response`, or else `conversation`, and writes `score`.

    `score` is the number that the reward model `llm` gives, or with `aspects` a mapping of their names to its numbers.
    The conversation is written in the model's own chat template. Columns that `input_mappings` names must be there.
    """

    no_content: ClassVar[Any] = ()
    elsewhere: ClassVar[Mapping[str, str]] = {
        "model": 'is called llm here; write llm=LLM("vllm/…", engine={"runner": "pooling"})',
        **dict.fromkeys(("device_map", "max_length", "revision", "torch_dtype", "trust_remote_code"), _LOADED),
        "token": "is read from HF_TOKEN where the model is loaded; leave it out",
        "truncation": "a conversation that is too long for the model fails its row; leave it out",
    }

    aspects: list[str] | None = Field(default=None, min_length=1)
    """Names for the numbers of a model that gives several, in its order; such as `helpfulness` and `correctness`."""
    activation: bool = False
    """Takes what the model's activation makes of its numbers, which are shares of 1, instead of the numbers."""

    _are_different = field_validator("aspects")(check_different)

    def reads(self) -> tuple[str, ...]:
        if _WHOLE in self.input_mappings:
            return (_WHOLE,)
        return _PAIR if set(_PAIR) & self.input_mappings.keys() else ()

    def needs(self) -> Columns:
        return self.reads() or (*_PAIR, _WHOLE)

    def writes(self) -> dict[str, str]:
        return {"score": "" if self.aspects else "double"}

    def request(self, content: tuple[Message, ...]) -> Request:
        pool = "classify" if self.activation else "score"
        return Request(content, pool=pool, numbers=len(self.aspects) if self.aspects else 1)

    async def process_row(self, row: Values, llm: Caller) -> Output:
        numbers = await ask_numbers(llm, self.request(_conversation(row)))
        named = name_numbers(numbers, self.aspects or ["score"], "aspects")
        return {"score": named} if self.aspects else named


def _conversation(row: Values) -> tuple[Message, ...]:
    """Raises RowError (`input`, `messages`) for a row that has none."""
    if any(row.get(name) is not None for name in _PAIR):
        absent: Any = {name: row.get(name) for name in _PAIR}
        asked, answered = (text_of(absent, name) for name in _PAIR)
        return ({"role": "user", "content": asked}, {"role": "assistant", "content": answered})
    if row.get(_WHOLE) is None:
        problem = f"the row has neither {_PAIR[0]!r} and {_PAIR[1]!r} nor {_WHOLE!r}"
        raise RowError(f"{problem}; name its columns with input_mappings={{'instruction': …}}", kind="input")
    return conversation_of(row[_WHOLE], _WHOLE)
