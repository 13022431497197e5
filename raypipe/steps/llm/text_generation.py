"""I ask a model about each row: a template in, columns out.

I do not know how a call is made, logged, limited or tried again; the caller does. What is wrong with a
declaration shows when it is made, before anything is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Self, TypeGuard

import orjson
from pydantic import (
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from raypipe.contracts.llm import Caller, Request
from raypipe.contracts.step import Columns, Output, Shape
from raypipe.errors import SpecError, Violation, nearest
from raypipe.row import METADATA, MODEL_NAME, Values
from raypipe.security.permissions import check_file
from raypipe.steps.answers.constrained_text import FORMS
from raypipe.steps.answers.outputs import Outputs, Wanted, from_structure, from_text
from raypipe.steps.answers.parsing import Parser, parser
from raypipe.steps.answers.structured import Expected, expected
from raypipe.steps.llm.prompt_preview import PromptedStep
from raypipe.steps.llm.recording_caller import RawCapture
from raypipe.steps.llm.row_program import Ending, RowProgram
from raypipe.steps.prompts.templates import compile_template, first_variable, variables

_DEFAULT_TEMPLATE = "{{ instruction }}"

_FROM_FILES = frozenset(("template", "template_file", "structured_output", "base_dir"))
"""Options whose meaning may stand in a file."""


def _is_file(schema: object) -> TypeGuard[str]:
    return isinstance(schema, str) and schema.endswith(".json")


class TextGeneration(PromptedStep):
    """Asks `llm` with a Jinja template of the row's columns and turns the answer into columns.

    By default the column `instruction` is sent as it is and the answer is the column `generation`. With
    `structured_output` the answer is JSON that satisfies a schema; each top-level property is a column. With
    `.scatter()` the answer is a list and each item a row.
    """

    template: str | None = None
    """Jinja template of the message; a column that is null is empty text."""
    template_file: str | None = None
    """File with the template, relative to `base_dir`."""
    system_prompt: str | None = None
    """Jinja template of the system message."""
    columns: list[str] | None = None
    """Columns that must be there besides those the templates name."""
    num_generations: int = Field(default=1, ge=1, le=10_000)
    """Answers wanted for each row; each becomes a row."""
    group_generations: bool = False
    """The answers to a row stay in it: its new columns become lists."""
    structured_output: Any = None
    """A pydantic class, a JSON Schema, the dotted path of either, or a `.json` file relative to `base_dir`.

    A mapping of one of these alone is the form of a text: `{"regex": …}`, `{"choice": […]}`, `{"grammar": …}`.
    """
    parse: str | Callable[[str], Any] = "text"
    """`text`, `json`, `json_list`, `comma_list`, `lines`, `tags`, `regex`, a dotted path, or a function of the text."""
    pattern: str | None = None
    """Regular expression of `parse="regex"`; its named groups become columns."""
    output: str | None = None
    """The column that takes the whole value; of an object with a single property it takes that property's value."""
    outputs: list[str] | None = None
    """Columns that take the parts of the value: a mapping's by key, a tuple's or list's in order."""
    add_model_name: bool | None = None
    """Adds the column `model_name`; by default where a step behind it reads that column."""
    add_raw_output: bool = False
    """Keeps the text of the answer as `raw_output_<step>` in the column `distilabel_metadata`."""
    add_raw_input: bool = False
    """Keeps the messages that were sent as `raw_input_<step>` there."""
    base_dir: str | None = Field(default=None, exclude=True, repr=False)
    """Folder that files are relative to, by default the working directory."""

    _text: str = PrivateAttr(default="")
    _structure: Expected | None = PrivateAttr(default=None)
    _reads: tuple[str, ...] = PrivateAttr(default=())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TextGeneration) and self._declaration() == other._declaration()

    def _declaration(self) -> tuple[Any, ...]:
        """What makes two steps equal: what files say, not where they are."""
        said = {name: getattr(self, name) for name in type(self).model_fields if name not in _FROM_FILES}
        return type(self), said, self._text, self._structure

    @model_serializer(mode="wrap")
    def _without_files(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Written down it stands for itself: what its files say takes the place of their names."""
        options: dict[str, Any] = plain(self)
        written = {"template" if name == "template_file" else name: value for name, value in options.items()}
        if self.template_file is not None and "template" in written:
            written["template"] = self._text
        if self._structure is not None and _is_file(self.structured_output):
            written["structured_output"] = self._structure.declared
        return written

    @field_validator("columns", "outputs", mode="before")
    @classmethod
    def _listed(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _prepare(self) -> Self:
        """Read files and compile everything once, so that what is wrong shows before anything is spent."""
        problems = list(_exclusions(self))
        for prepare in (self._read_templates, self._read_structure, self._parser):
            try:
                prepare()
            except SpecError as error:
                problems.append(str(error))
        if problems:
            where = f"TextGeneration {self.name!r}" if self.name else "TextGeneration"
            raise SpecError(violations=[Violation(where, problem) for problem in problems])
        return self

    def _read_templates(self) -> None:
        self._text = self.template if self.template is not None else _DEFAULT_TEMPLATE
        if self.template_file is not None:
            self._text = self._file_text("template_file", self.template_file)
        compile_template(self._text)
        found = variables(self._text)
        if self.system_prompt is not None:
            compile_template(self.system_prompt)
            found |= variables(self.system_prompt)
        self._reads = tuple(dict.fromkeys((*sorted(found), *(self.columns or []))))

    def _read_structure(self) -> None:
        schema = self.structured_output
        if isinstance(schema, Mapping) and "schema" in schema and not schema.keys() - {"format", "schema"}:
            schema = _in_format(schema.get("format", "json"), schema["schema"])
        if _is_file(schema):
            try:
                schema = orjson.loads(self._file_text("structured_output", schema))
            except orjson.JSONDecodeError as error:
                raise SpecError.of("structured_output", f"{schema!r} is no JSON: {error}") from None
        self._structure = None if schema is None else expected(schema)

    def _file_text(self, option: str, name: str) -> str:
        path = Path(self.base_dir or ".", name)
        check_file(name, option, self.base_dir or ".")
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            said = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            base = str(Path(self.base_dir or ".").resolve())
            problem = f"cannot read {str(path)!r} ({said}); relative paths start at {base!r}"
            raise SpecError.of(option, problem) from None

    def _wanted_outputs(self) -> Outputs:
        wanted = Wanted(self.output, None if self.outputs is None else tuple(self.outputs), self.scattered)
        if self._structure is not None:
            return from_structure(wanted, self._structure.json_schema)
        return from_text(wanted, self.parse, self.pattern)

    def _parser(self) -> Parser:
        names = self.outputs or ([self.output] if self.output else [])
        return parser(self.parse, pattern=self.pattern, names=names)

    @property
    def template_text(self) -> str:
        """The template, wherever it was written."""
        return self._text

    @property
    def shape(self) -> Shape:
        several = self.num_generations > 1 and not self.group_generations
        return Shape.SCATTER if self.scattered or several else Shape.MAP

    def reads(self) -> tuple[str, ...]:
        return self._reads

    @property
    def _keeping(self) -> RawCapture:
        return RawCapture(self.name or type(self).__name__, self.add_raw_output, self.add_raw_input)

    def begins_with(self) -> tuple[str, ...]:
        return first_variable(self.system_prompt or "", self._text)

    def needs(self) -> Columns:
        return (*self._reads, METADATA) if self._keeping else self._reads

    def writes(self) -> dict[str, str]:
        types = dict(self._wanted_outputs().types) | ({METADATA: ""} if self._keeping else {})
        if self.group_generations:
            types = {name: f"list<{kind}>" if kind else "" for name, kind in types.items()}
        return types | ({MODEL_NAME: "string"} if self.add_model_name else {})

    def requests(self) -> tuple[Request, ...]:
        return () if self._structure is None else (self._structure.asked(Request()),)

    def problems(self) -> list[str]:
        outputs = self._wanted_outputs()
        found = [outputs.problem]
        if self.llm is None:
            found.append('asks a model but has none; give it llm=LLM("provider/model")')
        if self.scattered and self.group_generations:
            found.append("scatter makes rows and group_generations keeps one; leave one of them out")
        if self.add_model_name and MODEL_NAME in outputs.types:
            found.append(f"writes column {MODEL_NAME!r} twice; rename the output or leave add_model_name out")
        return [problem for problem in found if problem]

    def open(self) -> None:
        found = self.problems()
        if found:
            where = f"step {self.name!r}"
            raise SpecError(violations=[Violation(where, problem) for problem in found])
        _ = self.program

    @cached_property
    def program(self) -> RowProgram:
        """What is done with a row, compiled once (a private attribute of the model would be found more slowly)."""
        system = None if self.system_prompt is None else compile_template(self.system_prompt)
        template, outputs = compile_template(self._text), self._wanted_outputs()
        model_column = MODEL_NAME if self.add_model_name else None
        nulls = tuple(self.writes()) if self.on_error == "null" else ()
        kept = self._keeping or None
        ending = Ending(self.num_generations, self.scattered, self.group_generations, model_column, kept, nulls)
        return RowProgram(template, system, self._structure, self._parser(), outputs, ending)

    async def process_row(self, row: Values, llm: Caller) -> Output:
        return await self.program.run(row, llm)


def _in_format(kind: Any, schema: Any) -> Any:
    """A schema, or the form of a text, as distilabel writes them."""
    if kind == "json":
        return schema
    if kind not in FORMS:
        problem = f"format {kind!r} is unknown{nearest(str(kind), ['json', *FORMS])}"
        raise SpecError.of("structured_output", problem)
    return {kind: schema}


def _exclusions(step: TextGeneration) -> Iterator[str]:
    """Options that exclude each other."""
    if step.template is not None and step.template_file is not None:
        yield "template and template_file exclude each other; keep one"
    if step.output is not None and step.outputs is not None:
        yield "output and outputs exclude each other; keep one"
    if step.outputs is not None and len(set(step.outputs)) != max(1, len(step.outputs)):
        yield "outputs must name at least one column, and each only once"
    if step.structured_output is not None and (step.parse != "text" or step.pattern is not None):
        yield "structured_output is parsed by its schema; leave parse and pattern out"
