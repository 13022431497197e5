"""I ask for answers of a form that each row says itself: a JSON Schema, a regular expression, a choice, a grammar.

I do not know the columns inside an answer; it stays one text. What stands in a row is data: nothing of it is
imported, and a form that is unsound fails its row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from raypipe.contracts.llm import Caller
from raypipe.errors import RowError, SpecError
from raypipe.row import Values
from raypipe.steps.answers.constrained_text import FORMS, TextForm
from raypipe.steps.answers.structured import Expected, ask_structured, expected
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.prompts.inputs import chat_request, text_of, without_nulls
from raypipe.steps.prompts.to_text import quoted

_COLUMN = "structured_output"


class StructuredGeneration(LLMStep):
    """Reads `instruction` and `structured_output`, and writes `generation`: the JSON text, or the matching text.

    `structured_output` is a JSON Schema, `{"regex": …}`, `{"choice": […]}`, `{"grammar": …}`, or one of these as
    `{"format": "json" | "regex" | …, "schema": …}`, as a mapping or as JSON text; where it is null the answer is free
    text. A mapping's nulls count as absent, since a table's column adds them:
    write a schema in which null is a value (`const`, `default`) as text.
    """

    def reads(self) -> tuple[str, ...]:
        return ("instruction", _COLUMN)

    def answer_types(self) -> dict[str, str]:
        return {"generation": "string"}

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        instruction, form = text_of(row, "instruction"), _form_of(row[_COLUMN])
        if form is None:
            completion = await llm.complete(chat_request(instruction), sample=sample)
            return {"generation": completion.text.strip()}
        value, _ = await ask_structured(llm, chat_request(instruction), form, sample)
        return {"generation": value if isinstance(form, TextForm) else orjson.dumps(value).decode()}


def _form_of(written: Any) -> Expected | None:
    """Raises RowError (`schema`) for what is no form."""
    if written is None:
        return None
    found = _read(written) if isinstance(written, str) else without_nulls(written)
    if not isinstance(found, Mapping):
        raise _unsound(f"is no mapping but {quoted(written)}")
    parts = cast("Mapping[str, Any]", found)
    if not parts or parts.keys() - {"format", "schema"}:
        return _ready(parts)
    schema, kind = parts.get("schema"), parts.get("format")
    if schema is None:
        raise _unsound("has no 'schema'")
    if kind in FORMS:
        return _ready({kind: schema})
    if kind not in (None, "json"):
        raise _unsound(f"has the format {quoted(kind)} (allowed: 'json', {', '.join(map(repr, FORMS))})")
    return _ready(_read(schema) if isinstance(schema, str) else schema)


def _read(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise _unsound(f"is no JSON: {quoted(text)}") from None


def _ready(schema: Any) -> Expected:
    if not isinstance(schema, Mapping):
        raise _unsound(f"has the schema {quoted(schema)}, which is no JSON Schema")
    try:
        return expected(cast("Mapping[str, Any]", schema))
    except SpecError as error:
        raise _unsound(f"cannot be used: {error}") from None


def _unsound(problem: str) -> RowError:
    form = 'a JSON Schema, {"regex": …}, {"choice": […]}, {"grammar": …}, or {"format": …, "schema": …}'
    return RowError(f"column {_COLUMN!r} {problem}; write {form}, as a mapping or as JSON text", kind="schema")
