"""Records what a model is asked and answers, for the columns `distilabel_metadata` and `model_name`.

Knows nothing of what becomes of the answer. Where a row asks more than once for one answer, the last call counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple, Unpack

from raypipe.contracts.llm import AskOptions, Caller, Completion, Message, Request


class RecordingCaller:
    """A caller that passes requests on and keeps the last one and its answer."""

    def __init__(self, llm: Caller, sends_schema: bool = True) -> None:
        """`sends_schema`: False: requests are passed on without the schema that their answers are checked by."""
        self._llm = llm
        self._sends_schema = sends_schema
        self.messages: list[Message] | None = None
        self.text: str | None = None
        self._answered_by = ""

    @property
    def label(self) -> str:
        """The label of the model that answered last."""
        return self._answered_by or self._llm.label

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        return await self._llm(prompt, **options)

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        sent = request if self._sends_schema else request._replace(schema=None, form=None)
        completion = await self._llm.complete(sent, sample=sample)
        self.messages, self.text = list(sent.messages), completion.text
        self._answered_by = completion.answered_by
        return completion

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        return await self._llm.recorded(what, payload, work, played)


class RawCapture(NamedTuple):
    """What a step keeps of its calls as they were."""

    step: str
    raw_output: bool
    raw_input: bool
