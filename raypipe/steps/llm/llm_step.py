"""I ask a model about a row, once or several times, and make rows of what it answers.

I do not know what is asked; the steps built on me do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from raypipe.contracts.llm import Caller
from raypipe.contracts.step import Columns, Output, Shape
from raypipe.errors import RowError, SpecError, Violation
from raypipe.row import METADATA, MODEL_NAME, Values
from raypipe.steps.llm.gather_all import gather_all
from raypipe.steps.llm.prompt_preview import PromptedStep
from raypipe.steps.llm.recording_caller import RawCapture, RecordingCaller, labels_of


class LLMStep(PromptedStep):
    """Base of the steps whose prompts are part of what they are. A subclass says what one answer is.

    With `.scatter()` the columns that are lists are taken apart together, one row for each of their items.
    """

    num_generations: int = Field(default=1, ge=1, le=10_000)
    """Answers wanted for each row; each becomes a row."""
    group_generations: bool = False
    """The answers to a row stay in it: its new columns become lists."""
    add_model_name: bool = True
    """Adds the column `model_name`."""
    add_raw_output: bool = False
    """Keeps the text of the answer as `raw_output_<step>` in the column `distilabel_metadata`."""
    add_raw_input: bool = False
    """Keeps the messages that were sent as `raw_input_<step>` there."""

    def answer_types(self) -> dict[str, str]:
        """The columns of one answer and their Arrow types."""
        raise NotImplementedError

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        """The columns of the answer number `sample`. Raises RowError for a row that cannot pass."""
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        several = self.num_generations > 1 and not self.group_generations
        return Shape.SCATTER if self.scattered or several else Shape.MAP

    @property
    def keeping(self) -> RawCapture:
        """What is kept of its calls."""
        return RawCapture(self.name or type(self).__name__, self.add_raw_output, self.add_raw_input)

    @property
    def sends_schema(self) -> bool:
        """Whether the model is sent the schema of what it is to answer."""
        return True

    def begins_with(self) -> tuple[str, ...]:
        return self.reads()[:1]

    def needs(self) -> Columns:
        return (*self.reads(), METADATA) if self.keeping else self.reads()

    def _types(self) -> dict[str, str]:
        return self.answer_types() | ({METADATA: ""} if self.keeping else {})

    def writes(self) -> dict[str, str]:
        types = self._types()
        if self.scattered:
            types = {name: kind[len("list<") : -1] if _is_list(kind) else kind for name, kind in types.items()}
        if self.group_generations:
            types = {name: f"list<{kind}>" if kind else "" for name, kind in types.items()}
        return types | ({MODEL_NAME: "string"} if self.add_model_name else {})

    def problems(self) -> list[str]:
        found: list[str] = []
        if self.llm is None:
            found.append('asks a model but has none; give it llm=LLM("provider/model")')
        if self.scattered and self.group_generations:
            found.append("scatter makes rows and group_generations keeps one; leave one of them out")
        if self.scattered and not any(map(_is_list, self.answer_types().values())):
            found.append(f"scatter needs a list, but {_listed(self.answer_types())} holds none; leave scatter out")
        return found

    def open(self) -> None:
        found = self.problems()
        if found:
            where = f"step {self.name!r}"
            raise SpecError(violations=[Violation(where, problem) for problem in found])

    async def process_row(self, row: Values, llm: Caller) -> Output:
        heard = [RecordingCaller(llm, self.sends_schema) for _ in range(self.num_generations)]
        try:
            answers = await self._answers(row, heard)
        except RowError:
            if self.on_error != "null" or not self.keeping:
                raise
            nulls = self.keeping.nulls(row, self.writes(), heard, self.group_generations)
            return [nulls] if self.shape is Shape.SCATTER else nulls
        if self.scattered:
            answers = [item for answer in answers for item in self._items(answer)]
        if self.group_generations:
            labels = {MODEL_NAME: labels_of(heard)} if self.add_model_name else {}
            answers = [{name: [answer[name] for answer in answers] for name in self._types()} | labels]
        return answers if self.shape is Shape.SCATTER else answers[0]

    async def _answers(self, row: Values, heard: Sequence[RecordingCaller]) -> list[dict[str, Any]]:
        if len(heard) == 1:
            return [await self._answer(row, heard[0], 0)]
        return await gather_all(self._answer(row, one, sample) for sample, one in enumerate(heard))

    async def _answer(self, row: Values, heard: RecordingCaller, sample: int) -> dict[str, Any]:
        answer = await self.answer(row, heard, sample) | self.keeping.columns(row, heard)
        return answer | {MODEL_NAME: heard.label} if self.add_model_name else answer

    def _items(self, answer: dict[str, Any]) -> list[dict[str, Any]]:
        lists = {name: answer[name] for name, kind in self.answer_types().items() if _is_list(kind)}
        return [{**answer, **dict(zip(lists, parts, strict=True))} for parts in zip(*lists.values(), strict=True)]


class SchemaStep(LLMStep):
    """Base of the steps whose answers have one form, said by a schema."""

    use_default_structured_output: bool = True
    """The schema is sent to the model; False: it is asked in words, and its answer is held against the schema."""

    @property
    def sends_schema(self) -> bool:
        return self.use_default_structured_output


def _is_list(kind: str) -> bool:
    return kind.startswith("list<")


def _listed(types: dict[str, str]) -> str:
    return " and ".join(f"column {name!r}" for name in types)
