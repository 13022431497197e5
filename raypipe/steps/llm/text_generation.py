"""Asks a model about each row: a template in, columns out.

Knows nothing of how a call is made, logged, limited or tried again; the caller does that. What is wrong with a
declaration shows when it is made, before anything is spent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import orjson
from pydantic import (
    BeforeValidator,
    Field,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from raypipe.concurrency.user_code import LONG, UserCodeThread
from raypipe.contracts.llm import Caller, Request
from raypipe.errors import RowError, SpecError, Violation, nearest
from raypipe.row import MODEL_NAME, Values
from raypipe.security.permissions import check_file
from raypipe.steps.answers.constrained_text import FORMS
from raypipe.steps.answers.outputs import Outputs, Wanted, from_structure, from_text
from raypipe.steps.answers.parsing import Parser, parser
from raypipe.steps.answers.structured import Expected, ask_structured, cut, expected
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.llm.row_program import Answer
from raypipe.steps.prompts.inputs import chat_request
from raypipe.steps.prompts.templates import Template, first_variable, variables

_DEFAULT_TEMPLATE = "{{ instruction }}"

_FROM_FILES = frozenset(("template", "template_file", "structured_output", "base_dir"))
"""Options whose meaning may stand in a file."""

Names = Annotated[list[str] | None, BeforeValidator(lambda names: [names] if isinstance(names, str) else names)]
"""Column names; a single one may be written without a list."""


class Compiled(NamedTuple):
    """What a step asks with, and reads an answer by."""

    template: Template
    system: Template | None
    structure: Expected | None
    parse: Parser
    is_slow: bool
    """The parser may take longer than an event loop can wait: code of the user's own, or a pattern with a deadline."""
    outputs: Outputs
    thread: UserCodeThread
    """Where a parser works that is slow, or reads a long text."""


class TextGeneration(LLMStep):
    """Asks `llm` with a Jinja template of the row's columns and turns the answer into columns.

    By default the column `instruction` is sent as it is and the answer is the column `generation`. With
    `structured_output` the answer is JSON that satisfies a schema; each top-level property is a column. With
    `.scatter()` the answer is a list and each item a row.
    """

    worked_out: ClassVar[tuple[str, ...]] = ("program", "compiled")

    template: str | None = None
    """Jinja template of the message; a column that is null is empty text."""
    template_file: str | None = None
    """File with the template, relative to `base_dir`."""
    system_prompt: str | None = None
    """Jinja template of the system message."""
    columns: Names = None
    """Columns that must be there besides those the templates name."""
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
    outputs: Names = None
    """Columns that take the parts of the value: a mapping's by key, a tuple's or list's in order."""
    add_model_name: bool | None = None  # pyright: ignore[reportIncompatibleVariableOverride] (as wide as is needed)
    """Adds the column `model_name`; by default where a step behind it reads that column."""
    base_dir: str | None = Field(default=None, exclude=True, repr=False)
    """Folder that files are relative to, by default the working directory."""

    _text: str = PrivateAttr(default="")
    _structure: Expected | None = PrivateAttr(default=None)
    _reads: tuple[str, ...] = PrivateAttr(default=())

    def __eq__(self, other: object) -> bool:
        """Whether both say the same, wherever their files are."""
        if not isinstance(other, TextGeneration):
            return False
        options = [name for name in type(self).model_fields if name not in _FROM_FILES]
        one, two = (
            [type(step), *(getattr(step, name, None) for name in options), step._text, step._structure]
            for step in (self, other)
        )
        return one == two

    @model_serializer(mode="wrap")
    def _without_files(self, plain: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Written down it stands for itself: what its files say takes the place of their names."""
        options: dict[str, Any] = plain(self)
        written = {"template" if name == "template_file" else name: value for name, value in options.items()}
        if self.template_file is not None and "template" in written:
            written["template"] = self._text
        if self._structure is not None and str(self.structured_output).endswith(".json"):
            written["structured_output"] = self._structure.declared
        return written

    @model_validator(mode="after")
    def _compile(self) -> Self:
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
            self._text = _file_text(self.base_dir, "template_file", self.template_file)
        Template(self._text)
        found = variables(self._text)
        if self.system_prompt is not None:
            Template(self.system_prompt)
            found |= variables(self.system_prompt)
        self._reads = tuple(dict.fromkeys((*sorted(found), *(self.columns or []))))

    def _read_structure(self) -> None:
        schema = self.structured_output
        if isinstance(schema, Mapping) and "schema" in schema and not schema.keys() - {"format", "schema"}:
            schema = _in_format(schema.get("format", "json"), schema["schema"])
        if isinstance(schema, str) and schema.endswith(".json"):
            try:
                schema = orjson.loads(_file_text(self.base_dir, "structured_output", schema))
            except orjson.JSONDecodeError as error:
                problem = f"{schema!r} is not JSON: {error}"
                raise SpecError.of("structured_output", problem) from None
        self._structure = None if schema is None else expected(schema)

    def _wanted_outputs(self) -> Outputs:
        wanted = Wanted(self.output, None if self.outputs is None else tuple(self.outputs), self.scattered)
        if self._structure is not None:
            return from_structure(wanted, self._structure.json_schema)
        return from_text(wanted, self.parse, self.pattern)

    def _parser(self) -> Parser:
        names = self.outputs or ([self.output] if self.output else [])
        return parser(self.parse, pattern=self.pattern, names=names)

    def reads(self) -> tuple[str, ...]:
        return self._reads

    def begins_with(self) -> tuple[str, ...]:
        return first_variable(self.system_prompt or "", self._text)

    def answer_types(self) -> dict[str, str]:
        types = self._wanted_outputs().types
        return {name: f"list<{kind}>" for name, kind in types.items()} if self.scattered else types

    def requests(self) -> tuple[Request, ...]:
        return () if self._structure is None else (Request(**self._structure.sent),)

    def problems(self) -> list[str]:
        outputs = self._wanted_outputs()
        found = [*([outputs.problem] if outputs.problem else []), *super().problems()]
        if self.add_model_name and MODEL_NAME in outputs.types:
            found.append(f"writes column {MODEL_NAME!r} twice; rename the output or leave add_model_name out")
        return found

    def open(self) -> None:
        super().open()
        _ = self.compiled  # a parser that cannot be imported here is found before the first row

    @cached_property
    def compiled(self) -> Compiled:
        """What rows are asked with and read by (a private attribute would be found more slowly)."""
        system = None if self.system_prompt is None else Template(self.system_prompt)
        parse, outputs = self._parser(), self._wanted_outputs()
        is_slow = getattr(parse, "may_take_long", False)
        thread = UserCodeThread("parser")
        return Compiled(Template(self._text), system, self._structure, parse, is_slow, outputs, thread)

    def prepare(self, row: Values) -> Request:
        """The request for a row. Raises RowError (`template`) for one that does not fit."""
        compiled = self.compiled
        prompt, system = compiled.template.render(row), compiled.system
        return chat_request(prompt) if system is None else chat_request(prompt, system.render(row))

    async def answer(self, row: Request, llm: Caller, sample: int) -> Answer:
        """The columns of an answer to the request, or its rows. Raises RowError for one that cannot be read."""
        _, _, structure, parse, is_slow, outputs, thread = self.compiled
        if structure is not None:
            value, _ = await ask_structured(llm, row, structure, sample)
        else:
            completion = await llm.complete(row, sample=sample)
            try:
                if is_slow or len(completion.text) > LONG:
                    value = await thread.run(parse, completion.text)
                else:
                    value = parse(completion.text)
            except RowError as error:
                raise cut(row, completion) or error from None
        return outputs.rows(value) if self.scattered else outputs.row(value)


def _file_text(base_dir: str | None, option: str, name: str) -> str:
    """The text of a file that an option names."""
    path = Path(base_dir or ".", name)
    check_file(name, option, base_dir or ".")
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        base = str(Path(base_dir or ".").resolve())
        problem = f"cannot read {str(path)!r} ({reason}); relative paths start at {base!r}"
        raise SpecError.of(option, problem) from None


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
