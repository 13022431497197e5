"""Asks in plain words on behalf of a function: a text, a value that a schema describes, or an answer found with tools.

Knows nothing of how a call is sent, logged or tried again; the caller does that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from raypipe.contracts.llm import TOOL_CALLS, AskOptions, Caller, Completion, Message, Request
from raypipe.errors import RowError, SpecError, nearest
from raypipe.steps.answers.structured import ask_structured, cut
from raypipe.steps.llm.tools import KIND, CustomTool, check_calls, make_tools, read_calls, tool_messages, try_calls

MOST_ROUNDS = 8
"""Rounds of calls that a model may make before it answers, unless `max_rounds` says otherwise."""

_OPTIONS = frozenset(AskOptions.__annotations__)


async def ask(llm: Caller, prompt: str | Sequence[Message], options: AskOptions) -> Any:
    """What `await llm(prompt, …)` gives. Raises RowError when the model cannot answer."""
    for option in options.keys() - _OPTIONS:
        raise RowError(f"llm(…) has no option {option!r}{nearest(option, sorted(_OPTIONS))}", kind="option")
    messages = ({"role": "user", "content": prompt},) if isinstance(prompt, str) else tuple(prompt)
    if options.get("system") is not None:
        messages = ({"role": "system", "content": options.get("system")}, *messages)
    request = Request(messages, None, options.get("temperature"), options.get("max_tokens"))
    schema = options.get("schema")
    if options.get("tools"):
        tools, declared = _declare(options.get("tools") or ())
        request = request._replace(tools=declared)
        if not options.get("execute", True):
            if schema is not None:
                problem = "llm(…, execute=False) gives calls, which have no schema; leave schema out"
                raise RowError(problem, kind="option")
            return check_calls(request, await llm.complete(request), tools)
        llm = cast(Caller, _Conversation(llm, tools, options.get("max_rounds", MOST_ROUNDS)))
        request = request._replace(must_call=False)
    if schema is not None:
        value, _ = await ask_structured(llm, request, schema)
        return value
    return (await llm.complete(request)).text


def _declare(given: Sequence[Any]) -> tuple[tuple[CustomTool, ...], tuple[Mapping[str, Any], ...]]:
    """Tools, and how they are described to the endpoint. Raises RowError (`tool`) for one that cannot be used."""
    tools = make_tools(given)
    for tool in tools:
        for problem in tool.problems():
            raise RowError(f"tool {tool.called!r} {problem}", kind=KIND)
    try:
        return tools, tuple(tool.declaration() for tool in tools)
    except SpecError as error:
        raise RowError(f"the fields of a tool are unsound: {error}", kind=KIND) from None


class _Conversation:
    """Asks a model that may call tools before it answers; what was called and given stays in the conversation."""

    def __init__(self, llm: Caller, tools: Sequence[CustomTool], max_rounds: int) -> None:
        self._llm = llm
        self._tools = tools
        self._most = max_rounds
        self._rounds = 0
        self._taken = 0
        """How many messages of the requests are in the conversation."""
        self._messages: tuple[Message, ...] = ()

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        """The answer in words. Raises RowError (`tool`) when the model goes on calling tools."""
        self._messages += request.messages[self._taken :]
        self._taken = len(request.messages)
        while True:
            asked = request._replace(messages=self._messages)
            completion = await self._llm.complete(asked, sample=sample)
            failure = cut(asked, completion)
            calls = read_calls(completion) if failure or completion.finish_reason == TOOL_CALLS else []
            if not calls:
                return completion
            if failure:
                raise failure
            if self._rounds >= self._most:
                problem = f"the model still called tools after {self._most} rounds of calls (max_rounds={self._most})"
                raise RowError(f"{problem}; raise max_rounds, or say in the prompt when to answer", kind=KIND)
            self._rounds += 1
            outcomes = await try_calls(self._llm, calls, self._tools)
            self._messages += tool_messages(outcomes, len(self._messages))
