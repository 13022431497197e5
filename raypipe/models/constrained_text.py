"""Asks an endpoint that knows only JSON Schemas for a constrained text: a JSON object with the text in it.

Knows no HTTP. An endpoint that ignores the schema answers with the text itself, which is as good; whether the text has
the form is checked elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import orjson

from raypipe.contracts.llm import Completion

_NAME = "text_of_a_form"
_PROPERTY = "answer"


def form_schema(form: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The name and the JSON Schema of the object that holds a text of the form."""
    text: dict[str, Any] = {"type": "string"}
    if "choice" in form:
        text["enum"] = list(form["choice"])
    elif "regex" in form:
        text["pattern"] = f"^(?:{form['regex']})$"
    return _NAME, {
        "type": "object",
        "properties": {_PROPERTY: text},
        "required": [_PROPERTY],
        "additionalProperties": False,
    }


def unwrapped(completion: Completion) -> Completion:
    """The completion with the text that the object holds."""
    try:
        value = orjson.loads(completion.text)
    except orjson.JSONDecodeError:
        return completion
    text = cast("dict[str, Any]", value).get(_PROPERTY) if isinstance(value, dict) else None
    return completion._replace(text=text) if isinstance(text, str) else completion
