"""Gets an answer that satisfies a schema: asks, checks, and asks once more with the error shown.

Knows nothing of which columns the answer becomes. A schema is a JSON Schema (draft 2020-12), or the
pydantic class that stands for one, or the form of a text, or the dotted path of any.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any, cast

import orjson
from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError

from raypipe.concurrency.user_code import LONG, UserCodeThread
from raypipe.contracts.imports import imported
from raypipe.contracts.llm import Caller, Completion, Request, Schema
from raypipe.errors import RowError, shorten
from raypipe.steps.answers.constrained_text import FORMS, Declared, TextForm
from raypipe.steps.answers.parsing import read_json
from raypipe.steps.answers.schema_check import SchemaCheck, Uncheckable
from raypipe.steps.answers.schemas import closed, unsound

_CUT = "length"


class Structure(Declared):
    """A schema ready to check answers. It travels to workers as the schema.

    `declared` is a pydantic class, whose code checks answers itself, or a JSON Schema in the form that is sent.
    """

    __slots__ = ("_check", "_schema")
    again = "the corrected JSON"

    def __init__(self, given: Schema | bytes) -> None:
        """Of a schema, or of one as JSON text. Raises SpecError for anything else."""
        schema: Schema = orjson.loads(given) if isinstance(given, bytes) else given
        self._schema = schema
        self.beside = UserCodeThread("checks")
        self.may_take_long = isinstance(schema, type)
        try:
            self.json_schema = closed(schema.model_json_schema() if isinstance(schema, type) else schema)
            self._check = None if isinstance(schema, type) else SchemaCheck(self.json_schema)
        except PydanticUserError as error:
            name = getattr(schema, "__name__", "")
            raise unsound(f"class {name} has no JSON Schema: {shorten(str(error))}") from None
        except Uncheckable as error:
            raise unsound(str(error)) from None
        self.declared = schema if isinstance(schema, type) else self.json_schema
        self.sent = {"schema": self.json_schema}

    def __reduce__(self) -> tuple[Any, ...]:
        return structure_of, (self._schema,)

    def validate(self, text: str, *, repair: bool = True) -> Any:
        """The value in the text, as plain JSON. Raises RowError (`schema`) naming what the schema does not allow."""
        value = read_json(text, repair=repair)
        if value is None:
            raise RowError(f"the completion is not JSON: {shorten(text)!r}", kind="schema")
        try:
            if isinstance(self._schema, type):
                return self._schema.model_validate(value).model_dump(mode="json", by_alias=True)
            mismatch = None if self._check is None else self._check.mismatch(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            mismatch = first["loc"], first["msg"]
        except Uncheckable as error:
            raise RowError(f"the completion cannot be checked against the schema: it {error}", "schema") from None
        if mismatch is None:
            return value
        place = ".".join(map(str, mismatch[0]))
        problem = f"{place}: {shorten(mismatch[1])}" if place else shorten(mismatch[1])
        raise RowError(f"the completion does not match the schema: {problem}", "schema")


_made_once = lru_cache(maxsize=512)(Structure)

Expected = Structure | TextForm
"""What an answer is held to."""


def expected(schema: Schema | Expected | str) -> Expected:
    """`schema` or the form of a text ready to check answers. Raises SpecError for anything else."""
    found: Any = imported(schema) if isinstance(schema, str) else schema
    if isinstance(found, TextForm):
        return found
    is_form = isinstance(found, Mapping) and bool(found) and not found.keys() - set(FORMS)
    return TextForm(cast("Mapping[str, Any]", found)) if is_form else structure_of(found)


def structure_of(schema: Schema | Structure | str) -> Structure:
    """`schema` ready to check answers; made once for equal schemas. Raises SpecError for anything else."""
    found: Any = imported(schema) if isinstance(schema, str) else schema
    if isinstance(found, Structure):
        return found
    if isinstance(found, type) and issubclass(found, BaseModel):
        return _made_once(found)
    if not isinstance(found, Mapping):
        raise unsound(f"{shorten(repr(found))} is neither a pydantic class nor a JSON Schema")
    try:
        written = orjson.dumps(dict(cast(Mapping[str, Any], found)))
    except TypeError as error:
        raise unsound(f"is not plain JSON: {error}") from None
    return _made_once(written)


async def ask_structured(
    llm: Caller, request: Request, schema: Schema | Expected | str, sample: int = 0
) -> tuple[Any, Completion]:
    """The validated answer and the completion it stands in.

    An answer that does not fit is asked for once more, with the error shown. Raises RowError (`schema`), or
    (`length`) for a completion that was cut: asking again would be cut again.
    """
    structure = expected(schema)
    asked = request._replace(**structure.sent)
    completion = await llm.complete(asked, sample=sample)
    try:
        return await _validate(structure, asked, completion), completion
    except RowError as error:
        if error.kind == _CUT:
            raise
        problem = error
    again = f"That does not fit: {problem}. Answer again with {structure.again} only."
    more = ({"role": "assistant", "content": completion.text}, {"role": "user", "content": again})
    completion = await llm.complete(asked._replace(messages=(*asked.messages, *more)), sample=sample)
    return await _validate(structure, asked, completion), completion


def cut(request: Request, completion: Completion) -> RowError | None:
    """The failure of a completion that ended because it was too long; `None` for one that ended by itself."""
    if completion.finish_reason != _CUT:
        return None
    limit = request.max_tokens or completion.usage.output_tokens or "the model's limit"
    return RowError(f"the completion was cut at max_tokens={limit}; raise max_tokens", kind=_CUT)


async def ask_whole_text(llm: Caller, request: Request, sample: int, lacking: str) -> str:
    """The text of a completion that others are built on. Raises RowError for one that was cut or is empty.

    `lacking` says what there is not where it is empty.
    """
    completion = await llm.complete(request, sample=sample)
    failure, text = cut(request, completion), completion.text.strip()
    if failure is not None:
        raise failure
    if not text:
        raise RowError(f"the completion has no text, so {lacking}", kind="parse")
    return text


async def _validate(structure: Expected, request: Request, completion: Completion) -> Any:
    """Of a cut completion nothing is repaired: closing its brackets would pass half an answer as a whole one."""
    failure = cut(request, completion)
    try:
        if structure.may_take_long or len(completion.text) > LONG:
            return await structure.beside.run(partial(structure.validate, completion.text, repair=failure is None))
        return structure.validate(completion.text, repair=failure is None)
    except RowError:
        if failure is not None:
            raise failure from None
        raise
