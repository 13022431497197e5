"""I listen to what a model is asked and answers, for the column `distilabel_metadata`.

I do not know what is made of the answer. Where a row asks more than once for one answer, the last call counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

from raypipe.chat import Caller, Completion, Message, Request, Schema
from raypipe.row import Values

METADATA = "distilabel_metadata"


class Keeping(NamedTuple):
    """What is kept of the calls of a step, beside what steps before it kept."""

    step: str
    raw_output: bool = False
    raw_input: bool = False

    def __bool__(self) -> bool:
        return self.raw_output or self.raw_input

    def columns(self, row: Values, heard: Heard) -> dict[str, Any]:
        """The column to add."""
        if not self:
            return {}
        before, new = row.get(METADATA), dict[str, Any]()
        if self.raw_input:
            new[f"raw_input_{self.step}"] = heard.messages
        if self.raw_output:
            new[f"raw_output_{self.step}"] = heard.text
        if isinstance(before, list | tuple):  # of a step that grouped its answers
            return {METADATA: [{**one, **new} for one in cast("Sequence[Mapping[str, Any]]", before)]}
        return {METADATA: {**(before or {}), **new}}


class Heard:
    """A caller that passes requests on and keeps the last one and its answer."""

    def __init__(self, llm: Caller, sends_schema: bool = True) -> None:
        self._llm = llm
        self._sends_schema = sends_schema
        self.messages: list[Message] | None = None
        self.text: str | None = None
        self._answered_by = ""

    @property
    def label(self) -> str:
        """Of the model that answered last."""
        return self._answered_by or self._llm.label

    async def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        schema: Schema | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Any:
        return await self._llm(prompt, system=system, schema=schema, temperature=temperature, max_tokens=max_tokens)

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        sent = request if self._sends_schema else request._replace(schema=None)
        completion = await self._llm.complete(sent, sample=sample)
        self.messages, self.text = list(sent.messages), completion.text
        self._answered_by = completion.answered_by
        return completion


def labels_of(heard: Sequence[Heard]) -> str:
    """The models that gave these answers, as one text."""
    return " | ".join(dict.fromkeys(one.label for one in heard))
