"""I carry one row through a model: render the messages, ask, and turn the answers into columns.

I do not know how I was declared. Everything I need is compiled when I am made, so a row costs one
rendering and one parse.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from raypipe.chat import Caller, Request
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.outputs import Outputs
from raypipe.steps.parsing import Parser
from raypipe.steps.structured import Structure, ask_structured, cut
from raypipe.steps.templates import Template


@dataclass(frozen=True, slots=True)
class RowProgram:
    """What is done with every row of a step that asks a model."""

    template: Template
    system: Template | None
    structure: Structure | None
    parse: Parser
    outputs: Outputs

    def request(self, row: Values) -> Request:
        """Raises RowError (`template`) when a template does not fit the row."""
        message = {"role": "user", "content": self.template.render(row)}
        if self.system is None:
            return Request((message,))
        return Request(({"role": "system", "content": self.system.render(row)}, message))

    async def values(self, row: Values, llm: Caller, count: int) -> list[Any]:
        """The values of `count` answers. Raises RowError when one of them is none."""
        request = self.request(row)
        if count == 1:
            return [await self._value(request, llm, 0)]
        # Answers that are on their way are awaited even after one has failed: they are paid for, and
        # once logged they need not be asked again.
        asked = (self._value(request, llm, sample) for sample in range(count))
        values = await asyncio.gather(*asked, return_exceptions=True)
        for value in values:
            if isinstance(value, BaseException):
                raise value
        return values

    async def _value(self, request: Request, llm: Caller, sample: int) -> Any:
        if self.structure is not None:
            value, _ = await ask_structured(llm, request, self.structure, sample)
            return value
        completion = await llm.complete(request, sample=sample)
        try:
            return self.parse(completion.text)
        except RowError as error:
            raise cut(request, completion) or error from None
