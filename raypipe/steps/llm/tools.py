"""A function that a model may call: its arguments are the fields.

Knows nothing of who asks. A call is checked against the fields before anything is executed, and what it gave is
logged, so that a row which is done again does not execute it again. A failure is no result: it is not logged.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, NamedTuple, Self, cast

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raypipe.concurrency.background import TaskScope, start_thread
from raypipe.concurrency.user_code import run_and_deliver
from raypipe.contracts.llm import Caller, Completion, Message, Request
from raypipe.errors import CallError, RaypipeError, RowError, nearest
from raypipe.steps.answers.parsing import read_json
from raypipe.steps.answers.structured import Structure, cut, structure_of
from raypipe.steps.prompts.to_text import to_text

KIND = "tool"
"""Groups failures of rows whose model called no tool, or one that could not be executed."""
_SETTINGS = frozenset({"name", "description", "time_limit_s"})


class CustomTool(BaseModel):
    """A function of yours that a model may call. Its fields are the arguments; `execute` does the work.

    A call is executed in a thread of its own, or as it is where `execute` is async. Its result is logged under the
    tool's name and the arguments: a changed `execute` is asked again where the step has `use_cache=False`.
    """

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)
    _structures: ClassVar[dict[type[Any], Structure]] = {}

    name: str = ""
    """By default the name of the class."""
    description: str = ""
    """By default the docstring of the class."""
    time_limit_s: float = Field(default=60.0, gt=0)
    """Longest time a call may take, in seconds; a thread that takes longer is left alone, and its result is dropped."""

    @property
    def called(self) -> str:
        """The name by which the model calls it."""
        return self.name or type(self).__name__

    def execute(self, **arguments: Any) -> Any:
        """What the call gives; lists and mappings become JSON, `None` empty text. The arguments are the fields too.

        It may be `async def`. A call that raises an error has failed: the model is shown why, and nothing is logged.
        """
        raise NotImplementedError(f"tool {self.called!r} has no execute(self, **arguments)")

    def structure(self) -> Structure:
        """What the arguments must satisfy. Raises SpecError for fields that JSON cannot express."""
        kind = type(self)
        if kind not in self._structures:
            schema = structure_of(kind).json_schema
            properties = {name: node for name, node in schema.get("properties", {}).items() if name not in _SETTINGS}
            wanted = [name for name in schema.get("required", []) if name not in _SETTINGS]
            named = {"type": "object", "properties": properties, "required": wanted, "additionalProperties": False}
            inner = {"$defs": schema["$defs"]} if "$defs" in schema else {}
            self._structures[kind] = structure_of(named | inner)
        return self._structures[kind]

    def declaration(self) -> dict[str, Any]:
        """How the tool is described to the endpoint: `name`, `description` and `parameters`, a JSON Schema.

        Raises SpecError for fields that JSON cannot express.
        """
        description = self.description or (type(self).__doc__ or "").strip()
        return {"name": self.called, "description": description, "parameters": self.structure().json_schema}

    def settings(self) -> dict[str, Any]:
        """What tells it from another tool of this class and can be written down; no secret is among it.

        A saved workflow holds it, and `restored` makes the tool of it again.
        """
        return {"name": self.name, "description": self.description, "time_limit_s": self.time_limit_s}

    @classmethod
    def restored(cls, settings: Mapping[str, Any]) -> Self:
        """The tool that has these settings. Raises TypeError for others."""
        unknown = settings.keys() - _SETTINGS
        if unknown:
            raise TypeError(f"{cls.__name__} has no settings {sorted(unknown)}")
        return cls.model_construct(**settings)

    def identity(self) -> dict[str, Any]:
        """What a result depends on besides the arguments: equal calls of tools that are alike give the same.

        It is part of the identity under which a result is logged. Override it where other attributes of the tool count.
        """
        return {"name": self.called}

    def problems(self) -> list[str]:
        """What would keep it from being executed here, as far as that is known before.

        Each goes on from the tool's name: `needs the environment variable SEARCH_KEY, which is not set; set it`.
        """
        return []

    def played(self) -> str | None:
        """What stands for a result in a dry run; `None` to execute it there too.

        Override it for a tool that spends or changes something.
        """
        return None

    def bound(self, arguments: Mapping[str, Any]) -> Callable[[], Any]:
        """What executes a call with these arguments. Raises RowError for what the fields do not take."""
        try:
            filled = type(self).model_validate({**arguments, **CustomTool.settings(self)})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            place = ".".join(map(str, first["loc"]))
            raise RowError(f"{place}: {first['msg']}" if place else first["msg"], kind=KIND) from None
        taken = inspect.signature(filled.execute).parameters
        takes_all = any(one.kind is one.VAR_KEYWORD for one in taken.values())
        names = [name for name in type(filled).model_fields if name not in _SETTINGS and (takes_all or name in taken)]
        return lambda: filled.execute(**{name: getattr(filled, name) for name in names})

    @property
    def is_async(self) -> bool:
        """Whether what `bound` returns is awaited in the event loop, instead of called in a thread of its own."""
        return inspect.iscoroutinefunction(self.execute)


class Outcome(NamedTuple):
    """A call as the model made it, and what it gave, or why it gave nothing."""

    call: Mapping[str, Any]
    text: str
    failure: RowError | None = None


def make_tools(given: Sequence[Any]) -> tuple[CustomTool, ...]:
    """Tools, each given as itself or its class. Raises RowError (`tool`) for anything else."""
    made = [as_tool(one) for one in given]
    for one, tool in zip(given, made, strict=True):
        if tool is None:
            raise RowError(f"tools are a list of CustomTool classes or of such tools, got {one!r}", kind=KIND)
    tools = tuple(tool for tool in made if tool is not None)
    names = [tool.called for tool in tools]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise RowError(f"several tools are called {twice!r}; give each a name of its own", kind=KIND)
    return tools


def as_tool(given: Any) -> CustomTool | None:
    """The tool that was given as itself or its class; `None` for something else."""
    if isinstance(given, type) and issubclass(given, CustomTool):
        return given.model_construct()
    return given if isinstance(given, CustomTool) else None


def read_calls(completion: Completion) -> list[dict[str, Any]]:
    """The calls in a completion, as the model made them; none where it answered in words."""
    found = read_json(completion.text, repair=False)
    calls = cast("list[Any]", found) if isinstance(found, list) else []
    return calls if all(isinstance(call, dict) and "name" in call and "arguments" in call for call in calls) else []


def require_calls(request: Request, completion: Completion) -> list[dict[str, Any]]:
    """The calls in a completion, as the model made them. Raises RowError for none, or where it was cut."""
    failure, calls = cut(request, completion), read_calls(completion)
    if failure is not None:
        raise failure
    if not calls:
        raise RowError(f"the model called no tool, but answered {completion.text[:80]!r}", kind=KIND)
    return calls


def check_calls(request: Request, completion: Completion, tools: Sequence[CustomTool]) -> list[dict[str, Any]]:
    """The calls in a completion. Raises RowError for none, or of what is no tool, or whose arguments do not fit."""
    calls = [_check(call, tools) for call in require_calls(request, completion)]
    return [{"name": tool.called, "arguments": arguments} for tool, arguments in calls]


def _check(call: Mapping[str, Any], tools: Sequence[CustomTool]) -> tuple[CustomTool, dict[str, Any]]:
    """The tool that is called, and the arguments."""
    name, arguments = str(call["name"]), call["arguments"]
    tool = next((tool for tool in tools if tool.called == name), None)
    if tool is None:
        hint = nearest(name, [tool.called for tool in tools])
        raise RowError(f"the model called {name!r}, which is no tool that it was offered{hint}", kind=KIND)
    text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
    return tool, tool.structure().validate(text)


async def try_calls(llm: Caller, calls: Sequence[Mapping[str, Any]], tools: Sequence[CustomTool]) -> list[Outcome]:
    """What each call gave, executed one after the other."""
    outcomes: list[Outcome] = []
    for call in calls:
        try:
            tool, arguments = _check(call, tools)
            payload = {"tool": tool.identity(), "arguments": arguments}
            work = partial(execute_call, tool, arguments)
            outcomes.append(Outcome(call, await llm.recorded(tool.called, payload, work, tool.played())))
        except RowError as error:
            outcomes.append(Outcome(call, f"failed: {error}", error))
    return outcomes


async def execute_call(tool: CustomTool, arguments: Mapping[str, Any]) -> str:
    """What a call gives, as text. Raises RowError (`tool`) when it fails or takes too long."""
    named = f"tool {tool.called!r}"
    try:
        work = tool.bound(arguments)
    except RowError as error:
        raise RowError(f"{named} failed: {error}", kind=KIND) from None
    async with TaskScope() as scope:
        working = scope.start(work() if tool.is_async else _in_thread(work, named))
        await asyncio.wait({working}, timeout=tool.time_limit_s)
        if not working.done():
            problem = f"{named} did not return within {tool.time_limit_s:g} s (time_limit_s)"
            raise RowError(f"{problem}; raise its time_limit_s if it needs longer", kind=KIND)
        return _result(working, named)


def _result(working: asyncio.Future[Any], named: str) -> str:
    error = working.exception() if not working.cancelled() else asyncio.CancelledError("it cancelled itself")
    if error is None:
        return to_text(working.result())
    if isinstance(error, CallError) and error.status:  # an answer, which may ask to be asked again later
        raise CallError(f"{named} failed: {error}", KIND, error.retry, error.after_s, error.status) from None
    if isinstance(error, RowError):
        raise RowError(f"{named} failed: {error}", kind=KIND) from None
    if isinstance(error, RaypipeError):
        raise error
    raise RowError(f"{named} failed: {type(error).__name__}: {error}", kind=KIND) from None


async def _in_thread(work: Callable[[], Any], named: str) -> Any:
    """What `work` returns, in a thread that nobody waits for: one that never returns keeps no run from ending."""
    loop = asyncio.get_running_loop()
    working: asyncio.Future[Any] = loop.create_future()
    context = contextvars.copy_context()
    start_thread(partial(run_and_deliver, partial(context.run, work), loop, working), named, None)
    return await working


def tool_messages(outcomes: Sequence[Outcome], place: int) -> tuple[Message, ...]:
    """The calls and their results as messages behind `place` others, as OpenAI's chat API wants them.

    The ids have nine letters and digits, because Mistral takes no others. Arguments are always a JSON object: endpoints
    refuse a conversation with others, even where their model wrote them.
    """
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for number, (call, text, _) in enumerate(outcomes):
        identity = f"call{place % 1000:03}{number % 100:02}"
        given = read_json(call["arguments"]) if isinstance(call["arguments"], str) else call["arguments"]
        arguments = orjson.dumps(given if isinstance(given, dict) else {}).decode()
        function = {"name": str(call["name"]), "arguments": arguments}
        calls.append({"id": identity, "type": "function", "function": function})
        results.append({"role": "tool", "tool_call_id": identity, "content": text})
    return ({"role": "assistant", "content": None, "tool_calls": calls}, *results)
