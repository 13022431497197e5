"""I carry one row through a model: render the messages, ask, and turn the answers into columns.

I do not know how I was declared. Everything I need is compiled when I am made, so a row costs one
rendering and one parse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from raypipe.concurrency.user_code import LONG, UserCodeThread
from raypipe.contracts.llm import Caller, Request
from raypipe.contracts.step import Output
from raypipe.errors import RowError
from raypipe.row import METADATA, Values
from raypipe.steps.answers.outputs import Outputs
from raypipe.steps.answers.parsing import Parser, takes_long
from raypipe.steps.answers.structured import Expected, ask_structured, cut
from raypipe.steps.llm.gather_all import gather_all
from raypipe.steps.llm.recording_caller import RawCapture, RecordingCaller, labels_of
from raypipe.steps.prompts.templates import Template


class Ending(NamedTuple):
    """How many answers are wanted for a row, and how many rows they become."""

    answers: int = 1
    scattered: bool = False
    """Each item of an answer is a row."""
    grouped: bool = False
    """All answers go into one row, as lists."""
    model_column: str | None = None
    keeping: RawCapture | None = None
    """What of the calls is kept."""
    nulls: tuple[str, ...] = ()
    """With `keeping`: the columns of a row that cannot pass and is to go on."""

    def kept(self, row: Values, heard: RecordingCaller) -> Values:
        """What the columns of an answer say of its call."""
        label = {} if self.model_column is None else {self.model_column: heard.label}
        return label | (self.keeping.columns(row, heard) if self.keeping is not None else {})


_ONE_ROW = Ending()


@dataclass(frozen=True, slots=True)
class RowProgram:
    """What is done with every row of a step that asks a model."""

    template: Template
    system: Template | None
    structure: Expected | None
    parse: Parser
    outputs: Outputs
    ending: Ending
    beside: UserCodeThread = field(default_factory=lambda: UserCodeThread("parser"))
    """Where a parser works that may take long."""

    async def run(self, row: Values, llm: Caller) -> Output:
        """The new columns. Raises RowError for a row that cannot pass."""
        ending = self.ending
        if ending == _ONE_ROW:
            return self.outputs.row(await self._value(self._request(row), llm, 0))
        llms = [RecordingCaller(llm) for _ in range(ending.answers)]
        try:
            values = await self._values(self._request(row), llms)
        except RowError:
            if ending.keeping is None or not ending.nulls:
                raise
            nulls = ending.keeping.nulls(row, ending.nulls, llms, ending.grouped)
            return [nulls] if ending.scattered or (ending.answers > 1 and not ending.grouped) else nulls
        made = [
            {**columns, **ending.kept(row, one)}
            for value, one in zip(values, llms, strict=True)
            for columns in (self.outputs.rows(value) if ending.scattered else [self.outputs.row(value)])
        ]
        if ending.grouped:
            names = [*self.outputs.types, *([METADATA] if ending.keeping else [])]
            labels = {ending.model_column: labels_of(llms)} if ending.model_column is not None else {}
            made = [{name: [columns[name] for columns in made] for name in names} | labels]
        return made if ending.scattered or len(made) > 1 else made[0]

    def _request(self, row: Values) -> Request:
        message = {"role": "user", "content": self.template.render(row)}
        system = "" if self.system is None else self.system.render(row)
        return Request(({"role": "system", "content": system}, message)) if system else Request((message,))

    async def _values(self, request: Request, llms: Sequence[Caller]) -> list[Any]:
        if len(llms) == 1:
            return [await self._value(request, llms[0], 0)]
        return await gather_all(self._value(request, llm, sample) for sample, llm in enumerate(llms))

    async def _value(self, request: Request, llm: Caller, sample: int) -> Any:
        if self.structure is not None:
            value, _ = await ask_structured(llm, request, self.structure, sample)
            return value
        completion = await llm.complete(request, sample=sample)
        try:
            if takes_long(self.parse) or len(completion.text) > LONG:
                return await self.beside.run(self.parse, completion.text)
            return self.parse(completion.text)
        except RowError as error:
            raise cut(request, completion) or error from None
