"""I run a workflow for one row: task after task, until an edge leads to the end or a limit is reached.

I do not know how a call is sent, logged or tried again; the caller does. What I do next follows from the answers
alone, so a row that is begun again asks the same, and is answered from the log as far as it came.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar, cast

from raypipe.concurrency.background import TaskScope
from raypipe.contracts.llm import Caller, Completion, Request
from raypipe.errors import RowError, nearest
from raypipe.steps.answers.structured import ask_structured
from raypipe.steps.llm.tools import KIND as TOOL
from raypipe.steps.llm.tools import Outcome, check_calls, require_calls, tool_messages, try_calls
from raypipe.steps.prompts.to_text import to_text
from raypipe.workflows.definition import Definition
from raypipe.workflows.memory import KIND, Memory
from raypipe.workflows.prompts import filled
from raypipe.workflows.tasks import CALLING, END, Edge, Limits, Operator, Task

LIMIT = "limit"
"""Groups failures of rows whose workflow reached a limit."""
_CUT = "length"

T = TypeVar("T")


class Meter:
    """Asks for one workflow, and holds its answers to the limit of tokens."""

    def __init__(self, llm: Caller, most: int | None, longest: int | None) -> None:
        self._llm = llm
        self._most = most
        self._longest = longest
        self._used = 0

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        """Raises RowError (`limit`) once the answers have more tokens than they may."""
        if self._most is None:
            return await self._llm.complete(request, sample=sample)
        left = self._most - self._used
        if left <= 0:
            raise self._too_long(self._most)
        longest = min(left, self._longest or left)
        completion = await self._llm.complete(request._replace(max_tokens=longest), sample=sample)
        self._used += completion.usage.output_tokens
        if self._used > self._most or (completion.finish_reason == _CUT and longest == left):
            raise self._too_long(self._most)
        return completion

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        return await self._llm.recorded(what, payload, work, played)

    def _too_long(self, most: int) -> RowError:
        return RowError(f"the answers reached {most} tokens (max_tokens={most}); raise it with set_max_tokens", LIMIT)


class Clock:
    """Seconds that a workflow has worked; what its calls wait to be sent is not counted."""

    def __init__(self, llm: Caller, limits: Limits) -> None:
        self._llm = llm
        self._most_s = limits.max_time
        self._began = time.monotonic()

    @property
    def _left_s(self) -> float:
        waited_s: float = getattr(self._llm, "waited_s", 0.0)  # a caller that nothing holds up has none
        return self._most_s + waited_s - (time.monotonic() - self._began)

    async def hold(self, work: Coroutine[Any, Any, T], task: str) -> T:
        """What `work` returns. Raises RowError (`limit`) when time is up before that."""
        async with TaskScope() as scope:
            working = scope.start(work)
            while not working.done() and (left_s := self._left_s) > 0:
                await asyncio.wait({working}, timeout=left_s)
            if working.done():
                return working.result()
        most = f"{self._most_s:g}"
        problem = f"the workflow was not through after {most} s, in task {task!r} (max_time={most})"
        raise RowError(f"{problem}; raise it with set_max_time", LIMIT)


class Run:
    """One row's way through a workflow."""

    def __init__(self, workflow: Definition, llm: Caller, given: Mapping[str, Any], longest: int | None) -> None:
        """Raises RowError (`memory`) when what is given does not fit the workflow."""
        known = workflow.keys
        for key in given:
            if key not in known:
                raise RowError(f"the workflow has no memory key {key!r}{nearest(key, sorted(known))}", KIND)
        self._workflow = workflow
        self._memory = Memory.of(workflow.memory, given, workflow.stacks)
        self._meter = Meter(llm, workflow.limits.max_tokens, longest)
        self._clock = Clock(llm, workflow.limits)
        self._tasks = {task.id: task for task in workflow.tasks}
        self._steps = 0
        self._failures: list[RowError] = []
        self._last: Any = None

    async def value(self) -> Any:
        """Run it, and give its return value."""
        current = self._workflow.start
        while current != END:
            self._count()
            current = await self._after(self._tasks[current])
        returned = self._workflow.returned()
        if not returned:
            return self._last
        values = {key: self._returned(key) for key in returned}
        return values if isinstance(self._workflow.return_value, tuple) else values[returned[0]]

    def _count(self) -> None:
        most = self._workflow.limits.max_steps
        if self._steps >= most:
            problem = f"the workflow ran {most} tasks without coming to its end (max_steps={most})"
            raise RowError(f"{problem}; raise it with set_max_steps, or see that an edge leads to {END!r}", LIMIT)
        self._steps += 1

    async def _after(self, task: Task) -> str:
        """Run a task; returns the next one."""
        try:
            await self._do(task)
            return self._next(task.id)
        except RowError as error:
            if error.kind == LIMIT:
                raise
            named = type(error)(f"task {task.id!r}: {error}", **vars(error))
            fallback = next((edge.fallback for edge in self._edges(task.id) if edge.fallback is not None), None)
            if fallback is None:
                raise named from None
            self._failures.append(named)
            return fallback

    async def _do(self, task: Task) -> None:
        values = {wanted.key: to_text(self._memory.take(wanted)) for wanted in task.inputs}
        messages = tuple({**each, "content": filled(str(each["content"]), values)} for each in task.messages)
        answer = await self._clock.hold(self._answer(task, Request(messages)), task.id)
        self._last = answer
        for output in task.outputs:
            self._memory.put(output, answer)

    async def _answer(self, task: Task, request: Request) -> Any:
        if task.schema is not None:
            value, _ = await ask_structured(cast(Caller, self._meter), request, task.schema)
            return value
        if task.operator in CALLING:
            return await self._called(task, request)
        if task.operator is Operator.SEARCH:
            query = str(request.messages[-1]["content"])
            return await self._workflow.search_service.search(cast(Caller, self._meter), task.search, query)
        return (await self._meter.complete(request)).text.strip()

    async def _called(self, task: Task, request: Request) -> str:
        """The calls as JSON, or what they gave: of one its text, of several a JSON list.

        Where one fails, the model is shown what each gave, and may call once more.
        """
        tools = self._workflow.tools
        asked = request._replace(tools=tuple(tool.declaration() for tool in tools))
        if task.operator is Operator.FUNCTION_CALLING_RAW:
            return to_text(check_calls(asked, await self._meter.complete(asked), tools))
        outcomes = await self._outcomes(asked)
        failure = next((one.failure for one in outcomes if one.failure is not None), None)
        if failure is not None:
            outcomes = [one for one in outcomes if one.failure is None] + await self._again(asked, outcomes, failure)
        given = [one.text for one in outcomes]
        return given[0] if len(given) == 1 else to_text(given)

    async def _again(self, asked: Request, outcomes: Sequence[Outcome], failure: RowError) -> list[Outcome]:
        """What the model calls when it was shown the outcomes. Raises RowError when that fails too."""
        messages = (*asked.messages, *tool_messages(outcomes, len(asked.messages)))
        try:
            again = await self._outcomes(asked._replace(messages=messages))
        except RowError as error:
            raise failure if error.kind == TOOL else error from None
        for one in again:
            if one.failure is not None:
                raise one.failure
        return again

    async def _outcomes(self, asked: Request) -> list[Outcome]:
        calls = require_calls(asked, await self._meter.complete(asked))
        return await try_calls(cast(Caller, self._meter), calls, self._workflow.tools)

    def _edges(self, source: str) -> list[Edge]:
        return [edge for edge in self._workflow.edges if edge.source == source]

    def _next(self, source: str) -> str:
        for edge in self._edges(source):
            if edge.condition is None or edge.condition.holds(self._memory):
                return edge.target
            if edge.condition.target_if_not is not None:
                return edge.condition.target_if_not
        raise RowError("no condition of its edges holds; add an edge without one", kind="condition")

    def _returned(self, key: str) -> Any:
        if key in self._memory.stacks:
            return self._memory.stacks[key]
        value = self._memory.texts.get(key)
        if value is None and self._failures:
            raise self._failures[-1]
        if value is None:
            problem = f"the workflow came to its end, and no task on its way wrote the return value {key!r}"
            raise RowError(f"{problem}; give it an initial value, or let each way write it", kind=KIND)
        return value
