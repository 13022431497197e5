"""Asks with a template: renders the request of a row, and reads the columns out of an answer.

Knows nothing of how it was declared. All that it needs is compiled beforehand, so a row costs one rendering and an
answer one parse.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from raypipe.concurrency.user_code import LONG, UserCodeThread
from raypipe.contracts.llm import Caller, Request
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.answers.outputs import Outputs
from raypipe.steps.answers.parsing import Parser
from raypipe.steps.answers.structured import Expected, ask_structured, cut
from raypipe.steps.llm.row_program import Answer
from raypipe.steps.prompts.inputs import chat_request
from raypipe.steps.prompts.templates import Template


@dataclass(frozen=True, slots=True)
class PromptProgram:
    """What a step with a template sends, and what it reads."""

    template: Template
    system: Template | None
    structure: Expected | None
    parse: Parser
    outputs: Outputs
    is_slow: bool
    """The parser may take longer than an event loop can wait."""
    is_scattered: bool
    """Each item of an answer is a row."""
    beside: UserCodeThread = field(default_factory=lambda: UserCodeThread("parser"))
    """Where a parser works that may take long."""

    def request(self, row: Values) -> Request:
        """Raises RowError (`template`) for a row that does not fit."""
        return chat_request(self.template.render(row), "" if self.system is None else self.system.render(row))

    async def answer(self, request: Request, llm: Caller, sample: int) -> Answer:
        """Raises RowError for an answer that cannot be read."""
        if self.structure is not None:
            value, _ = await ask_structured(llm, request, self.structure, sample)
        else:
            completion = await llm.complete(request, sample=sample)
            try:
                if self.is_slow or len(completion.text) > LONG:
                    value = await self.beside.run(self.parse, completion.text)
                else:
                    value = self.parse(completion.text)
            except RowError as error:
                raise cut(request, completion) or error from None
        return self.outputs.rows(value) if self.is_scattered else self.outputs.row(value)
