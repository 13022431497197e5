"""Sends a conversation as it is, and takes the model's next turn.

Knows nothing of what it is about. Messages are those of OpenAI's chat API; parts that the columns of a table add
as nulls, because another message has them, are left out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from raypipe.contracts.llm import Caller, Message, Request
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.prompts.inputs import without_nulls
from raypipe.steps.prompts.to_text import quoted


class ChatGeneration(LLMStep):
    """Reads `messages`, whose last one is from the user, and writes `generation`."""

    read_columns: ClassVar[tuple[str, ...]] = ("messages",)
    output_types: ClassVar[Mapping[str, str]] = {"generation": "string"}

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        messages = conversation_of(row["messages"])
        last = messages[-1]["role"]
        if last != "user":
            problem = f"is the last message and from {last!r}, not from 'user'; end with the user"
            raise RowError(f"column 'messages'[{len(messages) - 1}] {problem}", kind="messages")
        completion = await llm.complete(Request(messages), sample=sample)
        return {"generation": completion.text.strip()}


def conversation_of(messages: Any, column: str = "messages") -> tuple[Message, ...]:
    """The conversation in a column. Raises RowError (`messages`) for anything else."""
    if not isinstance(messages, list | tuple) or not messages:
        got = "empty" if isinstance(messages, list | tuple) else f"not a list but {quoted(messages)}"
        problem = f'column {column!r} is {got}; write [{{"role": "user", "content": "…"}}]'
        raise RowError(problem, kind="messages")
    found: list[Message] = []
    for index, message in enumerate(cast("Sequence[Any]", messages)):
        try:
            found.append(_read_message(message))
        except ValueError as error:
            raise RowError(f"column {column!r}[{index}] {error}", kind="messages") from None
    return tuple(found)


def _read_message(message: Any) -> dict[str, Any]:
    """Raises ValueError saying why a message cannot be sent."""
    if not isinstance(message, Mapping):
        raise ValueError(f'is not a message but {quoted(message)}; write {{"role": …, "content": …}}')
    found: dict[str, Any] = without_nulls(message)
    if not isinstance(found.get("role"), str):
        raise ValueError(f"has no role ({quoted(message)}); it is 'system', 'user', 'assistant' or 'tool'")
    if isinstance(found.get("content"), str | list):
        return found
    if found["role"] != "assistant" or "content" in found or not found.get("tool_calls"):
        raise ValueError(f"has no content ({quoted(message)}); it is text or a list of parts")
    return {**found, "content": None}
