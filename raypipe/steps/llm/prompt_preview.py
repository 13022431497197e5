"""Shows what a step would ask its model about a row, without asking.

Knows nothing of how the step makes it: the step is run until it wants to send its first request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

import orjson

from raypipe.contracts.llm import AskOptions, Completion, Message, Request
from raypipe.contracts.step import Step
from raypipe.errors import RowError, SpecError
from raypipe.row import Values
from raypipe.steps.llm.conversation import ask


class _FirstRequest(BaseException):
    """Carries the first request out of the step, which ends there: no step catches it."""


class _PreviewCaller:
    """A caller that sends nothing."""

    label = "nobody"

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        return await ask(self, prompt, options)

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        raise _FirstRequest(request)

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        raise _FirstRequest(Request())


def first_request(step: Step, row: Values) -> Request:
    """What `step` sends first for `row`. Raises SpecError for a row that it cannot read, or that needs no call."""

    async def work() -> Request | str:
        try:
            await step.process_row(row, _PreviewCaller())
        except _FirstRequest as found:
            return found.args[0]
        except RowError as error:
            return str(error)
        return "this row needs no call"

    with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop, as in a notebook
        found = thread.submit(asyncio.run, work()).result()
    if isinstance(found, Request):
        return found
    needed = ", ".join(f"{name!r}: …" for name in step.reads())
    problem = f"cannot show its prompt: {found}; give it a row to show it with, print({{{needed}}})"
    raise SpecError.of(f"step {step.name or type(step).__name__!r}", problem)


def show(request: Request) -> str:
    """A request as a person reads it: each part under a heading."""
    parts: list[tuple[str, Any]] = [(str(message["role"]), message.get("content")) for message in request.messages]
    parts += [("text to go on with", request.prompt)] if request.prompt is not None else []
    parts += [("schema of the answer", dict(request.schema))] if request.schema is not None else []
    parts += [("form of the answer", dict(request.form))] if request.form is not None else []
    texts = (
        content if isinstance(content, str) else orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
        for _, content in parts
    )
    return "\n".join(f"--- {name}\n{text}" for (name, _), text in zip(parts, texts, strict=True))
