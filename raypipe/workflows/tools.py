"""I am a function that a model may call: its arguments are my fields.

I do not know who asks. A call is checked against the fields before anything is executed.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import orjson
from pydantic import BaseModel, ConfigDict

from raypipe.errors import RowError, nearest
from raypipe.steps.parsing import read_json
from raypipe.steps.structured import Structure, structure_of
from raypipe.workflows.memory import shown

_SAID = frozenset({"name", "description"})
_TOOL_ERRORS = (ArithmeticError, AttributeError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What a tool of the user's own raises for arguments that it cannot use."""
KIND = "tool"
"""Groups failures of rows whose model called no tool, or one that could not be executed."""


class CustomTool(BaseModel):
    """A function of yours that a model may call. Its fields are the arguments; `execute` does the work.

    A call is executed in a thread, and again when its row is done again: only answers of models are logged.
    """

    model_config = ConfigDict(extra="forbid")
    _structures: ClassVar[dict[type[Any], Structure]] = {}

    name: str = ""
    """By default the name of the class."""
    description: str = ""

    @property
    def called(self) -> str:
        """The name by which the model calls it."""
        return self.name or type(self).__name__

    def execute(self, **arguments: Any) -> Any:
        """What the call gives. The arguments are the fields too."""
        raise NotImplementedError(f"tool {self.called!r} has no execute(self, **arguments)")

    def structure(self) -> Structure:
        """What the arguments must satisfy. Raises SpecError for fields that JSON cannot say."""
        kind = type(self)
        if kind not in self._structures:
            schema = structure_of(kind).json_schema
            properties = {name: node for name, node in schema.get("properties", {}).items() if name not in _SAID}
            wanted = [name for name in schema.get("required", []) if name not in _SAID]
            named = {"type": "object", "properties": properties, "required": wanted, "additionalProperties": False}
            inner = {"$defs": schema["$defs"]} if "$defs" in schema else {}
            self._structures[kind] = structure_of(named | inner)
        return self._structures[kind]

    def declaration(self) -> dict[str, Any]:
        """The tool as the endpoint is told of it."""
        said = self.description or (type(self).__doc__ or "").strip()
        return {"name": self.called, "description": said, "parameters": self.structure().json_schema}


class HttpRequestTool(BaseModel):
    """Dria's tool that fetches an address, which is not here: a workflow with it is refused when it is built."""

    model_config = ConfigDict(extra="allow")


def calls_of(text: str, tools: Sequence[CustomTool]) -> list[dict[str, Any]]:
    """The calls in a completion, checked. Raises RowError (`tool`) for none, or of what is no tool."""
    found = read_json(text, repair=False)
    if not isinstance(found, list) or not found or not all(map(_is_call, cast("list[Any]", found))):
        raise RowError(f"the model called no tool, but answered {text[:80]!r}", kind=KIND)
    return [_checked(call, tools) for call in cast("list[dict[str, Any]]", found)]


async def executed(call: Mapping[str, Any], tools: Sequence[CustomTool]) -> str:
    """What a call gives, as text. Raises RowError (`tool`) when it cannot be executed."""
    tool = _tool(call["name"], tools)
    try:
        filled = type(tool).model_validate({**call["arguments"], "name": tool.name, "description": tool.description})
        return shown(await asyncio.to_thread(filled.execute, **_arguments(filled)))
    except _TOOL_ERRORS as error:
        raise RowError(f"tool {tool.called!r} failed: {type(error).__name__}: {error}", kind=KIND) from None


def _arguments(tool: CustomTool) -> dict[str, Any]:
    """The fields that `execute` takes."""
    taken = inspect.signature(tool.execute).parameters
    takes_all = any(one.kind is one.VAR_KEYWORD for one in taken.values())
    names = [name for name in type(tool).model_fields if name not in _SAID and (takes_all or name in taken)]
    return {name: getattr(tool, name) for name in names}


def _is_call(call: Any) -> bool:
    return isinstance(call, dict) and "name" in call and "arguments" in call


def _tool(name: str, tools: Sequence[CustomTool]) -> CustomTool:
    for tool in tools:
        if tool.called == name:
            return tool
    hint = nearest(name, [tool.called for tool in tools])
    raise RowError(f"the model called {name!r}, which is no tool of the workflow{hint}", kind=KIND)


def _checked(call: Mapping[str, Any], tools: Sequence[CustomTool]) -> dict[str, Any]:
    tool, arguments = _tool(str(call["name"]), tools), call["arguments"]
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return {"name": tool.called, "arguments": tool.structure().validate(text)}
