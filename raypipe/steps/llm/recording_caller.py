"""I listen to what a model is asked and answers, for the column `distilabel_metadata`.

I do not know what is made of the answer. Where a row asks more than once for one answer, the last call counts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Unpack

from raypipe.contracts.llm import AskOptions, Caller, Completion, Message, Request
from raypipe.graph.branching import merged_metadata
from raypipe.row import METADATA, Values


class RawCapture(NamedTuple):
    """What is kept of the calls of a step, beside what steps before it kept."""

    step: str
    raw_output: bool = False
    raw_input: bool = False

    def __bool__(self) -> bool:
        return self.raw_output or self.raw_input

    def columns(self, row: Values, heard: RecordingCaller) -> dict[str, Any]:
        """The column to add."""
        if not self:
            return {}
        return {METADATA: merged_metadata(row.get(METADATA), self._of(heard))}

    def nulls(
        self, row: Values, columns: Iterable[str], heards: Sequence[RecordingCaller], is_grouped: bool
    ) -> dict[str, Any]:
        """The columns of a row that could not pass and goes on with nulls; what its calls said is kept."""
        kept = [self.columns(row, heard)[METADATA] for heard in heards]
        return {**dict.fromkeys(columns), METADATA: kept if is_grouped else kept[0]}

    def _of(self, heard: RecordingCaller) -> dict[str, Any]:
        new: dict[str, Any] = {}
        if self.raw_input:
            new[f"raw_input_{self.step}"] = heard.messages
        if self.raw_output:
            new[f"raw_output_{self.step}"] = heard.text
        return new


class RecordingCaller:
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


def labels_of(heard: Sequence[RecordingCaller]) -> str:
    """The models that gave these answers, as one text."""
    return " | ".join(dict.fromkeys(one.label for one in heard))
