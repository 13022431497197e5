"""Asks for answers of a form that each row brings: a JSON Schema, a regular expression, a choice, a grammar.

Knows nothing of the columns inside an answer; it stays one text. What stands in a row is data: nothing of it is
imported, and a form that is unsound fails its row alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

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

    read_columns: ClassVar[tuple[str, ...]] = ("instruction", _COLUMN)
    output_types: ClassVar[Mapping[str, str]] = {"generation": "string"}

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        instruction, form = text_of(row, "instruction"), _form_of(row[_COLUMN])
        if form is None:
            completion = await llm.complete(chat_request(instruction), sample=sample)
            return {"generation": completion.text.strip()}
        value, _ = await ask_structured(llm, chat_request(instruction), form, sample)
        return {"generation": value if isinstance(form, TextForm) else orjson.dumps(value).decode()}


def _form_of(written: Any) -> Expected | None:
    """What a row's answer is held to. Raises RowError (`schema`) for what no answer can be held to."""
    if written is None:
        return None
    try:
        return expected(_read_form(written))
    except SpecError as error:
        problem = f"cannot be used: {error}"
    except ValueError as error:
        problem = str(error)
    form = 'a JSON Schema, {"regex": …}, {"choice": […]}, {"grammar": …}, or {"format": …, "schema": …}'
    raise RowError(f"column {_COLUMN!r} {problem}; write {form}, as a mapping or as JSON text", kind="schema")


def _read_form(written: Any) -> Mapping[str, Any]:
    """The JSON Schema, or the form of a text, as a mapping. Raises ValueError for anything else."""
    found = _read_json(written) if isinstance(written, str) else without_nulls(written)
    if not isinstance(found, Mapping):
        raise ValueError(f"is not a mapping but {quoted(written)}")
    parts = cast("Mapping[str, Any]", found)
    if not parts or parts.keys() - {"format", "schema"}:
        return parts
    schema, kind = parts.get("schema"), parts.get("format")
    if schema is None:
        raise ValueError("has no 'schema'")
    if kind in FORMS:
        return {kind: schema}
    if kind not in (None, "json"):
        raise ValueError(f"has the format {quoted(kind)} (allowed: 'json', {', '.join(map(repr, FORMS))})")
    read = _read_json(schema) if isinstance(schema, str) else schema
    if not isinstance(read, Mapping):
        raise ValueError(f"has the schema {quoted(read)}, which is not a JSON Schema")
    return cast("Mapping[str, Any]", read)


def _read_json(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise ValueError(f"is not JSON: {quoted(text)}") from None
