"""I send a conversation as it is, and take the model's next turn.

I do not know what it is about. Messages are those of OpenAI's chat API; parts that the columns of a table add
as nulls, because another message has them, are left out again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from raypipe.contracts.llm import Caller, Message, Request
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.prompts.inputs import without_nulls
from raypipe.steps.prompts.to_text import quoted


class ChatGeneration(LLMStep):
    """Reads `messages`, whose last one is from the user, and writes `generation`."""

    def reads(self) -> tuple[str, ...]:
        return ("messages",)

    def answer_types(self) -> dict[str, str]:
        return {"generation": "string"}

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        completion = await llm.complete(Request(_to_go_on_with(row["messages"])), sample=sample)
        return {"generation": completion.text.strip()}


def _to_go_on_with(messages: Any) -> tuple[Message, ...]:
    """Raises RowError (`messages`) for what is no conversation that a model can go on with."""
    found = conversation_of(messages)
    if found[-1]["role"] != "user":
        place, role = f"[{len(found) - 1}]", found[-1]["role"]
        raise _unsound("messages", place, f"is the last message and from {role!r}, not from 'user'; end with the user")
    return found


def conversation_of(messages: Any, column: str = "messages") -> tuple[Message, ...]:
    """The conversation in a column. Raises RowError (`messages`) for what is none."""
    if not isinstance(messages, list | tuple) or not messages:
        got = "empty" if isinstance(messages, list | tuple) else f"no list but {quoted(messages)}"
        raise _unsound(column, "", f'is {got}; write [{{"role": "user", "content": "…"}}]')
    return tuple(
        _message(column, f"[{index}]", message) for index, message in enumerate(cast("Sequence[Any]", messages))
    )


def _message(column: str, place: str, message: Any) -> dict[str, Any]:
    if not isinstance(message, Mapping):
        raise _unsound(column, place, f'is no message but {quoted(message)}; write {{"role": …, "content": …}}')
    found: dict[str, Any] = without_nulls(message)
    if not isinstance(found.get("role"), str):
        problem = f"has no role ({quoted(message)}); it is 'system', 'user', 'assistant' or 'tool'"
        raise _unsound(column, place, problem)
    if isinstance(found.get("content"), str | list):
        return found
    if found["role"] != "assistant" or "content" in found or not found.get("tool_calls"):
        raise _unsound(column, place, f"has no content ({quoted(message)}); it is text or a list of parts")
    return {**found, "content": None}


def _unsound(column: str, place: str, problem: str) -> RowError:
    return RowError(f"column {column!r}{place} {problem}", kind="messages")
