"""A caller that answers from a list, and notes what it was asked."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from raypipe.chat import Completion, Message, Request, Schema
from raypipe.errors import RowError
from raypipe.steps.structured import ask_structured

Answer = str | Completion | RowError


class ScriptedCaller:
    """Implements `Caller`. With `by_sample` the answers are chosen by sample index, else taken in order."""

    label = "offline/scripted"

    def __init__(self, *answers: Answer, by_sample: bool = False) -> None:
        self._answers = list(answers)
        self._by_sample = by_sample
        self.asked: list[Request] = []
        self.samples: list[int] = []
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

    async def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        schema: Schema | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Any:
        assert isinstance(prompt, str)
        request = Request(({"role": "user", "content": prompt},), None, temperature, max_tokens)
        if schema is None:
            return (await self.complete(request)).text
        value, _ = await ask_structured(self, request, schema)
        return value
