"""Offers tools in the words of OpenAI's chat API, and writes the calls of an answer as one text.

Knows nothing of who executes a call. The text is JSON, `[{"name": …, "arguments": {…}}]`, so that an answer with calls
is logged and found again like any other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import orjson

from raypipe.contracts.llm import TOOL_CALLS, Request

__all__ = ["TOOL_CALLS", "calls_text", "offered"]


def offered(request: Request) -> dict[str, Any]:
    """Fields of a request body that offers the model its tools, and says whether it must call one."""
    tools = [{"type": "function", "function": dict(tool)} for tool in request.tools]
    return {"tools": tools, "tool_choice": "required" if request.must_call else "auto"}


def calls_text(calls: Sequence[Mapping[str, Any]]) -> str:
    """The calls of an answer. Raises LookupError or TypeError for what is none."""
    return orjson.dumps([_call(one["function"]) for one in calls]).decode()


def _call(function: Mapping[str, Any]) -> dict[str, Any]:
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        with suppress(orjson.JSONDecodeError):  # as the model wrote it: whoever reads the call may repair it
            arguments = orjson.loads(arguments)
    return {"name": function["name"], "arguments": arguments}
