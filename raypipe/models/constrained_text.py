"""I ask an endpoint that knows only JSON Schemas for a text of a form: a JSON object with the text in it.

I do not know HTTP. An endpoint that pays no heed to the schema answers with the text itself, which is as good; whether
it has the form is for others to see.
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
    properties = {_PROPERTY: text}
    return _NAME, {
        "type": "object",
        "properties": properties,
        "required": [_PROPERTY],
        "additionalProperties": False,
    }


def is_wrapped(payload: Mapping[str, Any]) -> bool:
    """Whether the answer is such an object."""
    asked = (payload.get("response_format") or {}).get("json_schema") or {}
    return asked.get("name") == _NAME and list(asked.get("schema", {}).get("properties", ())) == [_PROPERTY]


def unwrapped(completion: Completion) -> Completion:
    """The completion with the text that the object holds."""
    try:
        value = orjson.loads(completion.text)
    except orjson.JSONDecodeError:
        return completion
    text = cast("dict[str, Any]", value).get(_PROPERTY) if isinstance(value, dict) else None
    return completion._replace(text=text) if isinstance(text, str) else completion
