"""I ask for answers of a form that each row says itself: a JSON Schema or a regular expression.

I do not know the columns inside an answer; it stays one text. What stands in a row is data: nothing of it is
imported, and a form that is unsound fails its row alone.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import orjson

from raypipe.chat import Caller
from raypipe.errors import RowError, SpecError
from raypipe.row import Values
from raypipe.steps.asking import AskingStep, question, shown, text_of, without_nulls
from raypipe.steps.structured import Structure, ask_structured, structure_of

_COLUMN = "structured_output"


class _Form(NamedTuple):
    structure: Structure
    pattern: re.Pattern[str] | None = None


class StructuredGeneration(AskingStep):
    """Reads `instruction` and `structured_output`, and writes `generation`: the JSON text, or the matching text.

    `structured_output` is a JSON Schema or `{"format": "json" | "regex", "schema": …}`, as a mapping or as JSON text;
    where it is null the answer is free text. A mapping's nulls count as absent, since a table's column adds them:
    write a schema in which null is a value (`const`, `default`) as text.
    """

    def reads(self) -> tuple[str, ...]:
        return ("instruction", _COLUMN)

    def answer_types(self) -> dict[str, str]:
        return {"generation": "string"}

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        instruction, form = text_of(row, "instruction"), _form_of(row[_COLUMN])
        if form is None:
            completion = await llm.complete(question(instruction), sample=sample)
            return {"generation": completion.text.strip()}
        if form.pattern is None:
            value, _ = await ask_structured(llm, question(instruction), form.structure, sample)
            return {"generation": orjson.dumps(value).decode()}
        prompt = f'{instruction}\n\nAnswer as JSON: {{"answer": text}}. The whole text matches {form.pattern.pattern}'
        value, _ = await ask_structured(llm, question(prompt), form.structure, sample)
        return {"generation": _matching(form.pattern, value["answer"])}


def _matching(pattern: re.Pattern[str], text: str) -> str:
    if pattern.fullmatch(text) is None:
        raise RowError(f"the completion does not match {pattern.pattern!r}: {shown(text)}", kind="schema")
    return text


def _form_of(written: Any) -> _Form | None:
    """Raises RowError (`schema`) for what is no form."""
    if written is None:
        return None
    found = _read(written) if isinstance(written, str) else without_nulls(written)
    if not isinstance(found, Mapping):
        raise _unsound(f"is no mapping but {shown(written)}")
    parts = cast("Mapping[str, Any]", found)
    if not parts or parts.keys() - {"format", "schema"}:
        return _Form(_structure(parts))
    schema, kind = parts.get("schema"), parts.get("format")
    if schema is None:
        raise _unsound("has no 'schema'")
    if kind == "regex":
        return _pattern_form(schema)
    if kind not in (None, "json"):
        raise _unsound(f"has the format {shown(kind)} (allowed: 'json', 'regex')")
    return _Form(_structure(_read(schema) if isinstance(schema, str) else schema))


def _pattern_form(pattern: Any) -> _Form:
    if not isinstance(pattern, str):
        raise _unsound(f"has the format 'regex' and the pattern {shown(pattern)}, which is no text")
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise _unsound(f"has the pattern {shown(pattern)}, which is no regular expression: {error}") from None
    text = {"type": "string"}
    if compiled.flags == re.UNICODE:  # JSON Schema knows no flags; a pattern with some is only checked afterwards
        text["pattern"] = f"^(?:{pattern})$"
    return _Form(_structure({"type": "object", "properties": {"answer": text}, "required": ["answer"]}), compiled)


def _read(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _unsound(f"is no JSON: {shown(text)}") from None


def _structure(schema: Any) -> Structure:
    if not isinstance(schema, Mapping):
        raise _unsound(f"has the schema {shown(schema)}, which is no JSON Schema")
    try:
        return structure_of(cast("Mapping[str, Any]", schema))
    except SpecError as error:
        raise _unsound(f"cannot be used: {error}") from None


def _unsound(problem: str) -> RowError:
    form = 'a JSON Schema or {"format": "json" | "regex", "schema": …}'
    return RowError(f"column {_COLUMN!r} {problem}; write {form}, as a mapping or as JSON text", kind="schema")
