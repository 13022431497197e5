"""A caller that answers from a list, and notes what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

from raypipe.contracts.llm import AskOptions, Completion, Message, Request
from raypipe.errors import RowError
from raypipe.steps.llm.conversation import ask

Answer = str | Completion | RowError


class ScriptedCaller:
    """Implements `Caller`. With `by_sample` the answers are chosen by sample index, else taken in order."""

    label = "offline/scripted"

    def __init__(self, *answers: Answer, by_sample: bool = False) -> None:
        self._answers = list(answers)
        self._by_sample = by_sample
        self.asked: list[Request] = []
        self.samples: list[int] = []
        self.recorded_payloads: list[tuple[str, dict[str, Any]]] = []
        self.answered = 0

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        self.asked.append(request)
        self.samples.append(sample)
        answer = self._answers[sample] if self._by_sample else self._answers.pop(0)
        await asyncio.sleep(0.001 * sample)
        self.answered += 1
        if isinstance(answer, RowError):
            raise answer
        return answer if isinstance(answer, Completion) else Completion(answer)

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        return await ask(self, prompt, options)

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        self.recorded_payloads.append((what, dict(payload)))
        return await work()
