"""I show what a step would ask its model about a row, without asking.

I do not know how the step makes it: the step is run, and what it wants to send first is what I show. I print, since
`step.print()` is what a person calls to look at a prompt.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

import orjson

from raypipe.contracts.llm import AskOptions, Caller, Completion, Message, Request
from raypipe.contracts.step import Step, collecting
from raypipe.errors import RowError, SpecError
from raypipe.row import Values
from raypipe.steps.llm.conversation import ask


class _Asked(BaseException):
    """The request is there: the step is left. No step catches it."""


class _Asking:
    """A caller that keeps the first request."""

    label = "nobody"

    def __init__(self) -> None:
        self.request = Request()

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        return await ask(self, prompt, options)

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        self.request = request
        raise _Asked

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        raise _Asked


class PromptedStep(Step):
    """Base of the steps that have a prompt to show."""

    def first_request(self, sample_input: Mapping[str, Any] | None = None) -> Request:
        """What is sent first for a row; by default for one whose columns are text such as `<INSTRUCTION>`.

        Raises SpecError for a row that the step cannot read.
        """
        row = dict(sample_input) if sample_input is not None else {name: f"<{name.upper()}>" for name in self.reads()}
        token = collecting.set(None)
        try:
            alone = self.model_copy(update={"num_generations": 1})
        finally:
            collecting.reset(token)
        asking = _Asking()
        with ThreadPoolExecutor(1) as thread:  # the caller may be in an event loop, as in a notebook
            problem = thread.submit(asyncio.run, _left(alone, row, asking)).result()
        if problem is not None:
            needed = ", ".join(f"{name!r}: …" for name in self.reads())
            said = f"cannot show its prompt: {problem}; give it a row to show it with, print({{{needed}}})"
            raise SpecError.of(f"step {self.name or type(self).__name__!r}", said)
        return asking.request

    def print(self, sample_input: Mapping[str, Any] | None = None) -> None:
        """Print the messages that are sent first for a row; see `first_request`."""
        print("\n".join(_shown(self.first_request(sample_input))))


async def _left(step: Step, row: Values, llm: Caller) -> str | None:
    """Why a row does not come to its first request, if it does not."""
    try:
        await step.process_row(row, llm)
    except _Asked:
        return None
    except RowError as error:
        return str(error)
    return "this row needs no call"


def _shown(request: Request) -> list[str]:
    parts = [(str(message["role"]), message.get("content")) for message in request.messages]
    parts += [("text to go on with", request.prompt)] if request.prompt is not None else []
    parts += [("schema of the answer", dict(request.schema))] if request.schema is not None else []
    parts += [("form of the answer", dict(request.form))] if request.form is not None else []
    return [line for name, content in parts for line in (f"--- {name}", _text(content))]


def _text(content: Any) -> str:
    return content if isinstance(content, str) else orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
