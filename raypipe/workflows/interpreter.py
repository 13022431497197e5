"""Runs a workflow for one row: task after task, until an edge leads to the end or a limit is reached.

Knows nothing of how a call is sent, logged or tried again; the caller does. Which task comes next follows from the
answers alone, so a row that is run again asks the same, and the call log answers as far as the first run came.
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
from raypipe.workflows.prompts import fill
from raypipe.workflows.tasks import CALLING, END, Limits, Operator, Task

LIMIT = "limit"
"""The kind of failure of a row whose workflow reached a limit."""
_CUT = "length"

T = TypeVar("T")


class Meter:
    """Sends the calls of one workflow, and keeps it within its limits of tokens and of time."""

    def __init__(self, llm: Caller, limits: Limits, longest: int | None) -> None:
        self._llm = llm
        self._most, self._most_s = limits.max_tokens, limits.max_time
        self._longest = longest
        self._used = 0
        self._began = time.monotonic()

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        """A completion. Raises RowError (`limit`) once all answers together have more tokens than they may."""
        if self._most is None:
            return await self._llm.complete(request, sample=sample)
        problem = f"the answers reached {self._most} tokens (max_tokens={self._most}); raise it with set_max_tokens"
        left = self._most - self._used
        if left <= 0:
            raise RowError(problem, LIMIT)
        longest = min(left, self._longest or left)
        completion = await self._llm.complete(request._replace(max_tokens=longest), sample=sample)
        self._used += completion.usage.output_tokens
        if self._used > self._most or (completion.finish_reason == _CUT and longest == left):
            raise RowError(problem, LIMIT)
        return completion

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        """Work other than a call of the model, which has no tokens."""
        return await self._llm.recorded(what, payload, work, played)

    async def limit_time(self, work: Coroutine[Any, Any, T], task: str) -> T:
        """What `work` returns. Raises RowError (`limit`) when time is up before that.

        Time that calls wait to be sent is not counted.
        """
        async with TaskScope() as scope:
            working = scope.start(work)
            while not working.done():
                waited_s: float = getattr(self._llm, "waited_s", 0.0)  # a caller that never waits has none
                left_s = self._most_s + waited_s - (time.monotonic() - self._began)
                if left_s <= 0:
                    break
                await asyncio.wait({working}, timeout=left_s)
            if working.done():
                return working.result()
        most = f"{self._most_s:g}"
        problem = f"the workflow was not finished after {most} s, in task {task!r} (max_time={most})"
        raise RowError(f"{problem}; raise it with set_max_time", LIMIT)


class Run:
    """One run of a workflow, for one row."""

    def __init__(self, workflow: Definition, llm: Caller, given: Mapping[str, Any], longest: int | None) -> None:
        """Raises RowError (`memory`) when what is given does not fit the workflow."""
        known = workflow.keys
        for key in given:
            if key not in known:
                raise RowError(f"the workflow has no memory key {key!r}{nearest(key, sorted(known))}", KIND)
        self._workflow = workflow
        self._memory = Memory.of(workflow.memory, given, workflow.stacks)
        self._meter = Meter(llm, workflow.limits, longest)
        self._tasks = {task.id: task for task in workflow.tasks}
        self._edges = {name: [edge for edge in workflow.edges if edge.source == name] for name in self._tasks}
        self._failures: list[RowError] = []
        self._last: Any = None

    async def value(self) -> Any:
        """Run the workflow. Returns its return value; raises RowError for a row that cannot pass."""
        current, steps, most = self._workflow.start, 0, self._workflow.limits.max_steps
        while current != END:
            if steps >= most:
                problem = f"the workflow ran {most} tasks without coming to its end (max_steps={most})"
                raise RowError(f"{problem}; raise it with set_max_steps, or see that an edge leads to {END!r}", LIMIT)
            steps += 1
            current = await self._run_task(self._tasks[current])
        keys = self._workflow.returned_keys
        if not keys:
            return self._last
        values = {key: self._return_value(key) for key in keys}
        return values if isinstance(self._workflow.return_value, tuple) else values[keys[0]]

    async def _run_task(self, task: Task) -> str:
        """Run a task. Returns the next one: that of an edge, or of its fallback where the task fails."""
        try:
            values = {wanted.key: to_text(self._memory.take(wanted)) for wanted in task.inputs}
            messages = tuple({**each, "content": fill(str(each["content"]), values)} for each in task.messages)
            self._last = answer = await self._meter.limit_time(self._answer(task, Request(messages)), task.id)
            for output in task.outputs:
                self._memory.put(output, answer)
            return self._next(task.id)
        except RowError as error:
            if error.kind == LIMIT:
                raise
            named = type(error)(f"task {task.id!r}: {error}", **vars(error))
            fallback = next((edge.fallback for edge in self._edges[task.id] if edge.fallback is not None), None)
            if fallback is None:
                raise named from None
            self._failures.append(named)
            return fallback

    async def _answer(self, task: Task, request: Request) -> Any:
        if task.schema is not None:
            value, _ = await ask_structured(cast(Caller, self._meter), request, task.schema)
            return value
        if task.operator in CALLING:
            return await self._call_tools(task, request)
        if task.operator is Operator.SEARCH:
            query = str(request.messages[-1]["content"])
            return await self._workflow.search_service.search(cast(Caller, self._meter), task.search, query)
        return (await self._meter.complete(request)).text.strip()

    async def _call_tools(self, task: Task, request: Request) -> str:
        """The model's calls as JSON, or their results: of one its text, of several a JSON list.

        Where one fails, the model is shown the result of each, and may call once more.
        """
        tools = self._workflow.tools
        asked = request._replace(tools=tuple(tool.declaration() for tool in tools))
        if task.operator is Operator.FUNCTION_CALLING_RAW:
            return to_text(check_calls(asked, await self._meter.complete(asked), tools))
        outcomes = await self._outcomes(asked)
        failure = next((one.failure for one in outcomes if one.failure is not None), None)
        if failure is not None:
            outcomes = [one for one in outcomes if one.failure is None] + await self._retry(asked, outcomes, failure)
        given = [one.text for one in outcomes]
        return given[0] if len(given) == 1 else to_text(given)

    async def _retry(self, asked: Request, outcomes: Sequence[Outcome], failure: RowError) -> list[Outcome]:
        """Outcomes of the calls that the model makes when it is shown the outcomes. Raises RowError when one fails."""
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

    def _next(self, source: str) -> str:
        """The task that the first edge leads to whose condition decides. Raises RowError where none does."""
        for edge in self._edges[source]:
            if edge.condition is None or edge.condition.holds(self._memory):
                return edge.target
            if edge.condition.target_if_not is not None:
                return edge.condition.target_if_not
        raise RowError("no condition of its edges holds; add an edge without one", kind="condition")

    def _return_value(self, key: str) -> Any:
        """The value under a key. Raises RowError where there is none: the failure that a fallback led away from."""
        if key in self._memory.stacks:
            return self._memory.stacks[key]
        value = self._memory.texts.get(key)
        if value is None and self._failures:
            raise self._failures[-1]
        if value is None:
            problem = f"the workflow came to its end, but no task on its way wrote the return value {key!r}"
            raise RowError(f"{problem}; give it an initial value, or let each way write it", kind=KIND)
        return value
