"""The base of all steps that write with a model: a row is answered once or several times, and becomes rows.

Knows nothing of what is asked, nor of how a call is logged, limited or tried again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from functools import cached_property
from typing import Any, ClassVar

from pydantic import Field

from raypipe.contracts.llm import Caller, Request
from raypipe.contracts.step import Columns, Output, Shape
from raypipe.errors import RowError
from raypipe.row import METADATA, MODEL_NAME, Values
from raypipe.steps.llm.gather_all import gather_all
from raypipe.steps.llm.model_step import ModelStep
from raypipe.steps.llm.prompt_preview import first_request, show
from raypipe.steps.llm.recording_caller import RawCapture, RecordingCaller
from raypipe.steps.llm.row_program import Answer, RowProgram

_LIST = "list<"
"""How the Arrow type of a list begins."""


class LLMStep(ModelStep):
    """Base of the steps that write with a model. A subclass says what one answer is, with `answer`.

    With `.scatter()` the columns that are lists are taken apart together, one row for each of their items.
    """

    output_types: ClassVar[Mapping[str, str]] = {}
    """The columns of one answer and their Arrow types, where no option changes them."""
    optional_columns: ClassVar[tuple[str, ...]] = ()
    """Columns that it is given from rows that have them."""
    schema_option: ClassVar[str | None] = None
    """The option that says whether the model is sent the schema that its answer is checked by; without one it is."""
    worked_out: ClassVar[tuple[str, ...]] = ("program",)
    """Cached properties: a copy of a step has those of the original, until it is opened."""

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
        """The columns of one answer and their Arrow types; by default `output_types`."""
        return dict(self.output_types)

    def prepare(self, row: Values) -> Any:
        """What all answers to a row are made of, worked out once; by default the row itself."""
        return row

    def answer(self, row: Any, llm: Caller, sample: int) -> Awaitable[Answer]:
        """The columns of the answer number `sample` to what `prepare` made of a row, or the rows that it stands for.

        Raises RowError for a row that cannot pass.
        """
        raise NotImplementedError

    @property
    def shape(self) -> Shape:
        several = self.num_generations > 1 and not self.group_generations
        return Shape.SCATTER if self.scattered or several else Shape.MAP

    @property
    def keeps_calls(self) -> bool:
        """Whether anything of its calls is kept as it was."""
        return self.add_raw_output or self.add_raw_input

    def begins_with(self) -> tuple[str, ...]:
        return self.reads()[:1]

    def needs(self) -> Columns:
        return (*self.reads(), *self.optional_columns, *([METADATA] if self.keeps_calls else []))

    def writes(self) -> dict[str, str]:
        types = dict(self.answer_types())
        if self.scattered:
            types = {name: kind[len(_LIST) : -1] if kind.startswith(_LIST) else kind for name, kind in types.items()}
        if self.keeps_calls:
            types[METADATA] = ""
        if self.group_generations:
            types = {name: f"list<{kind}>" if kind else "" for name, kind in types.items()}
        return types | ({MODEL_NAME: "string"} if self.add_model_name else {})

    def problems(self) -> list[str]:
        found = super().problems()
        if self.scattered and self.group_generations:
            found.append("scatter makes rows and group_generations keeps one; leave one of them out")
        if self.scattered and not any(kind.startswith(_LIST) for kind in self.answer_types().values()):
            columns = " and ".join(f"column {name!r}" for name in self.answer_types())
            found.append(f"scatter needs a list, but {columns} holds none; leave scatter out")
        return found

    def open(self) -> None:
        super().open()
        for name in self.worked_out:
            vars(self).pop(name, None)

    @cached_property
    def program(self) -> RowProgram:
        """What becomes of the answers to a row."""
        capture = RawCapture(self.name or type(self).__name__, self.add_raw_output, self.add_raw_input)
        types, has_label, makes_rows = self.answer_types(), bool(self.add_model_name), self.shape is Shape.SCATTER
        sends_schema = self.schema_option is None or bool(getattr(self, self.schema_option))
        is_one = self.num_generations == 1 and not (makes_rows or self.group_generations)
        return RowProgram(
            sends_schema=sends_schema,
            is_plain=is_one and sends_schema and not (has_label or self.keeps_calls),
            makes_rows=makes_rows,
            lists=tuple(name for name, kind in types.items() if kind.startswith(_LIST)) if self.scattered else None,
            grouped=(*types, *([METADATA] if self.keeps_calls else [])) if self.group_generations else None,
            adds_label=has_label,
            capture=capture if self.keeps_calls else None,
            nulls=tuple(self.writes()) if self.keeps_calls and self.on_error == "null" else (),
        )

    async def process_row(self, row: Values, llm: Caller) -> Output:
        program = self.program
        if program.is_plain:
            return await self.answer(self.prepare(row), llm, 0)
        sends_schema = program.sends_schema
        callers = [RecordingCaller(llm, sends_schema) for _ in range(self.num_generations)]
        try:
            asked = self.prepare(row)
            if len(callers) == 1:
                answers = [await self.answer(asked, callers[0], 0)]
            else:
                answers = await gather_all(self.answer(asked, one, sample) for sample, one in enumerate(callers))
        except RowError:
            if not program.nulls:
                raise
            return program.null_row(row, callers)
        return program.rows(row, answers, callers)

    def first_request(self, sample_input: Mapping[str, Any] | None = None) -> Request:
        """What is sent first for a row; by default for one whose columns are text such as `<INSTRUCTION>`.

        Raises SpecError for a row that the step cannot read.
        """
        row = sample_input if sample_input is not None else {name: f"<{name.upper()}>" for name in self.reads()}
        return first_request(self.model_copy(update={"num_generations": 1}), row)

    def print(self, sample_input: Mapping[str, Any] | None = None) -> None:
        """Print the messages that are sent first for a row; see `first_request`."""
        print(show(self.first_request(sample_input)))


class SchemaStep(LLMStep):
    """Base of the steps whose answers are checked by a schema of the step's own."""

    schema_option: ClassVar[str | None] = "use_default_structured_output"

    use_default_structured_output: bool = True
    """The schema is sent to the model; False: it is asked in words, and its answer is checked by the schema."""
