"""Writes the calls of an answer, in the words of OpenAI's chat API, as one text.

Knows nothing of who executes a call. The text is JSON, `[{"name": …, "arguments": {…}}]`, so that an answer with calls
is logged and found again like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from raypipe.contracts.llm import TOOL_CALLS

__all__ = ["TOOL_CALLS", "calls_text"]


def calls_text(calls: Sequence[Mapping[str, Any]]) -> str:
    """The calls of an answer. Raises LookupError or TypeError for what is none."""
    made: list[dict[str, Any]] = []
    for one in calls:
        function = one["function"]
        arguments = function.get("arguments") or "{}"
        if isinstance(arguments, str):
            with suppress(orjson.JSONDecodeError):  # as the model wrote it: whoever reads the call may repair it
                arguments = orjson.loads(arguments)
        made.append({"name": function["name"], "arguments": arguments})
    return orjson.dumps(made).decode()
