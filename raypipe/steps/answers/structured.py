"""I get an answer that satisfies a schema: ask, check, and once more with the error shown.

I do not know which columns the answer becomes. A schema is a JSON Schema (draft 2020-12), or the
pydantic class that stands for one, or the form of a text, or the dotted path of any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from typing import Any, cast

import orjson
from pydantic import BaseModel, ValidationError
from pydantic.errors import PydanticUserError

from raypipe.concurrency.user_code import LONG, UserCodeThread
from raypipe.contracts.imports import imported
from raypipe.contracts.llm import Caller, Completion, Request, Schema
from raypipe.errors import RowError
from raypipe.steps.answers.constrained_text import TextForm, form_of
from raypipe.steps.answers.parsing import read_json
from raypipe.steps.answers.schema_check import SchemaCheck, Uncheckable
from raypipe.steps.answers.schemas import Node, closed, unsound

_SHOWN = 200
_CUT = "length"
Check = Callable[[Any], Any]


class Structure:
    """A schema ready to check answers. It travels to workers as the schema."""

    __slots__ = ("_check", "_schema", "beside", "json_schema")
    again = "the corrected JSON"
    """What is asked for where an answer does not fit."""

    def __init__(self, schema: Schema) -> None:
        """Raises SpecError for what is no schema."""
        self._schema = schema
        self.json_schema: Node = _json_schema(schema)
        self.beside = UserCodeThread("checks")
        self._check: Check = _model_check(schema) if isinstance(schema, type) else _schema_check(self.json_schema)

    def __reduce__(self) -> tuple[Any, ...]:
        return structure_of, (self._schema,)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and self.declared == other.declared

    def __hash__(self) -> int:
        return hash(orjson.dumps(self.json_schema, option=orjson.OPT_SORT_KEYS))

    @property
    def may_take_long(self) -> bool:
        """Whether code of the user's own checks."""
        return isinstance(self._schema, type)

    @property
    def declared(self) -> type[BaseModel] | Node:
        """What it was made of: a pydantic class, or a JSON Schema in the form that is sent."""
        return self._schema if isinstance(self._schema, type) else self.json_schema

    def asked(self, request: Request) -> Request:
        """The request for an answer that satisfies the schema."""
        return request._replace(schema=self.json_schema)

    def validate(self, text: str, *, repair: bool = True) -> Any:
        """The value in the text, as plain JSON. Raises RowError (`schema`) saying what the schema does not allow."""
        value = read_json(text, repair=repair)
        if value is None:
            raise RowError(f"the completion is not JSON: {_short(text)!r}", kind="schema")
        return self._check(value)


Expected = Structure | TextForm
"""What an answer is held to."""


def expected(schema: Schema | Expected | str) -> Expected:
    """`schema` or the form of a text ready to check answers. Raises SpecError for what is neither."""
    found: Any = imported(schema) if isinstance(schema, str) else schema
    return found if isinstance(found, TextForm) else form_of(found) or structure_of(found)


def structure_of(schema: Schema | Structure | str) -> Structure:
    """`schema` ready to check answers; made once for equal schemas. Raises SpecError for what is no schema."""
    found: Any = imported(schema) if isinstance(schema, str) else schema
    if isinstance(found, Structure):
        return found
    if isinstance(found, type) and issubclass(found, BaseModel):
        return _structure_of_class(found)
    if not isinstance(found, Mapping):
        raise unsound(f"{_short(repr(found))} is neither a pydantic class nor a JSON Schema")
    try:
        written = orjson.dumps(dict(cast(Mapping[str, Any], found)))
    except TypeError as error:
        raise unsound(f"is not plain JSON: {error}") from None
    return _structure_of_json(written)


def json_schema_of(schema: Schema | str) -> Node:
    """The JSON Schema that is sent: objects that list their properties allow no others unless they say so."""
    return structure_of(schema).json_schema


def validate(schema: Schema | str, text: str) -> Any:
    """The value in a completion. Raises RowError (`schema`) saying where it is not what `schema` allows."""
    return structure_of(schema).validate(text)


async def ask_structured(
    llm: Caller, request: Request, schema: Schema | Expected | str, sample: int = 0
) -> tuple[Any, Completion]:
    """The validated answer and the completion it stands in.

    An answer that does not fit is asked for once more, with the error shown. Raises RowError (`schema`), or
    (`length`) for a completion that was cut: asking again would be cut again.
    """
    structure = expected(schema)
    asked = structure.asked(request)
    completion = await llm.complete(asked, sample=sample)
    try:
        return await _checked(structure, asked, completion), completion
    except RowError as error:
        if error.kind == _CUT:
            raise
        problem = error
    again = f"That does not fit: {problem}. Answer again with {structure.again} only."
    completion = await llm.complete(_with_problem(asked, completion, again), sample=sample)
    return await _checked(structure, asked, completion), completion


def cut(request: Request, completion: Completion) -> RowError | None:
    """The failure of a completion that ended because it was too long; `None` for one that ended by itself."""
    if completion.finish_reason != _CUT:
        return None
    limit = request.max_tokens or completion.usage.output_tokens or "the model's limit"
    return RowError(f"the completion was cut at max_tokens={limit}; raise max_tokens", kind=_CUT)


async def _checked(structure: Expected, request: Request, completion: Completion) -> Any:
    """Of a cut completion nothing is repaired: closing its brackets would pass half an answer as a whole one."""
    shortened = cut(request, completion)
    try:
        if structure.may_take_long or len(completion.text) > LONG:
            return await structure.beside.run(partial(structure.validate, completion.text, repair=shortened is None))
        return structure.validate(completion.text, repair=shortened is None)
    except RowError:
        if shortened is not None:
            raise shortened from None
        raise


def _with_problem(request: Request, completion: Completion, again: str) -> Request:
    more = ({"role": "assistant", "content": completion.text}, {"role": "user", "content": again})
    return request._replace(messages=(*request.messages, *more))


@lru_cache(maxsize=256)
def _structure_of_class(schema: type[BaseModel]) -> Structure:
    return Structure(schema)


@lru_cache(maxsize=256)
def _structure_of_json(schema: bytes) -> Structure:
    return Structure(orjson.loads(schema))


def _json_schema(schema: Schema) -> Node:
    if not isinstance(schema, type):
        return closed(schema)
    try:
        return closed(schema.model_json_schema())
    except PydanticUserError as error:
        raise unsound(f"class {schema.__name__} has no JSON Schema: {_short(str(error))}") from None


def _model_check(schema: type[BaseModel]) -> Check:
    def checked(value: Any) -> Any:
        try:
            return schema.model_validate(value).model_dump(mode="json", by_alias=True)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            raise _mismatch(first["loc"], first["msg"]) from None

    return checked


def _schema_check(schema: Node) -> Check:
    try:
        check = SchemaCheck(schema)
    except Uncheckable as error:
        raise unsound(str(error)) from None

    def checked(value: Any) -> Any:
        try:
            found = check.mismatch(value)
        except Uncheckable as error:
            raise RowError(f"the completion cannot be checked against the schema: it {error}", "schema") from None
        if found is not None:
            raise _mismatch(*found)
        return value

    return checked


def _mismatch(path: Iterable[Any], message: str) -> RowError:
    place = ".".join(str(part) for part in path)
    return RowError(
        f"the completion does not match the schema: {f'{place}: ' if place else ''}{_short(message)}", "schema"
    )


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN // 2]} … {text[-_SHOWN // 2 :]}"
