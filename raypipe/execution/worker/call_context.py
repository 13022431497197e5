"""Holds what all rows of one worker share when they call models: the call log, the calls being made, the counts.

Sends a call to the model that was chosen for it, and logs the answer before the row gets it. Chooses no model and
tries nothing again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from raypipe.calls.index import KnownCalls
from raypipe.calls.segments import CallOrigin
from raypipe.calls.writer import CallLogWriter
from raypipe.concurrency.background import TaskScope
from raypipe.contracts.llm import REFUSALS, Completion
from raypipe.errors import CallError, RaypipeError
from raypipe.execution.context import RunContext
from raypipe.execution.counts import CallCounts
from raypipe.execution.worker.model_selection import Attempt, ModelSelector
from raypipe.limits import Settlement


class CallContext:
    """The calls of one worker in one run."""

    def __init__(self, run: RunContext, selector: ModelSelector, log: CallLogWriter, known: KnownCalls) -> None:
        self.run, self.selector, self.known = run, selector, known
        self.total = CallCounts()
        """Of all rows."""
        self.in_progress: dict[bytes, asyncio.Future[Completion]] = {}
        """Calls being made, by key: a row that is redone meanwhile takes their answer."""
        self._log = log

    async def open(self) -> None:
        """Get log and models ready. Raises OutputError, InfrastructureError."""
        self._log.open()
        await self.selector.open()

    async def make(self, key: bytes, work: Callable[..., Awaitable[Completion]], *arguments: Any) -> Completion:
        """The completion that `work` gives; whoever wants the same meanwhile takes it from `in_progress`."""
        answer = self.in_progress[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await work(*arguments)
        except BaseException as error:
            answer.set_exception(error if isinstance(error, RaypipeError) else CallError("the call was given up"))
            answer.exception()  # nobody need wait for it
            raise
        finally:
            del self.in_progress[key]
        answer.set_result(completion)
        return completion

    async def send(self, attempt: Attempt, origin: CallOrigin, counts: CallCounts) -> Completion:
        """Send a call that has a permit, once, and log its answer. Counts it in `counts`, too. Raises CallError.

        The permit is kept until the answer is logged, so that no more calls are at risk than there are permits.
        """
        backend, call = attempt.backend, _Sent(attempt)
        try:
            counts.count_sent(backend)
            self.total.count_sent(backend)
            began = time.monotonic()
            if backend.hedge_after_s is None:
                completion = await call.complete()
            else:
                completion = await self._first_answer(call, counts, origin.step)
            backend.note_success()
            await self.record(attempt.key, origin, completion, began)
        finally:
            self._settle(call, counts, origin.step)
        if completion.finish_reason in REFUSALS:
            counts.count_refused(backend)
        return Completion(*completion[:-1], answered_by=backend.label)

    def _settle(self, call: _Sent, counts: CallCounts, step: str) -> None:
        """A call that had a permit has ended, however it did."""
        attempt, settlement = call.attempt, call.settlement
        backend = attempt.backend
        if settlement is None:  # it was given up
            settlement = backend.costs.unknown(attempt.payload, attempt.need)
        backend.limiter.leave(attempt.need, settlement, step, backend.name)
        counts.count_settled(backend, settlement)
        self.total.count_settled(backend, settlement)

    async def record(self, key: bytes, origin: CallOrigin, completion: Completion, began: float) -> None:
        """Write a completion to the log. `began`: when it was asked for. Raises OutputError."""
        await self._log.append(key, origin, completion, time.monotonic() - began)
        if self._log.is_full:
            self.selector.halt("the disk of the call log is full")

    async def _first_answer(self, call: _Sent, counts: CallCounts, step: str) -> Completion:
        """The first answer to a call that is sent a second time when it has none after a while."""
        has_begun = asyncio.Event()
        async with TaskScope() as scope:
            calls = {scope.start(call.complete())}
            done, _ = await asyncio.wait(calls, timeout=call.attempt.backend.hedge_after_s)
            if not done:
                calls.add(scope.start(self._send_again(call.attempt, counts, has_begun, step)))
            while True:
                done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                answered = [call for call in done if call.exception() is None]
                # A second call that still waits for a permit may wait for this one's: nobody may wait for both.
                if answered or not pending or not has_begun.is_set():
                    return (answered or list(done))[0].result()
                calls = pending

    async def _send_again(
        self, attempt: Attempt, counts: CallCounts, has_begun: asyncio.Event, step: str
    ) -> Completion:
        backend, call = attempt.backend, _Sent(attempt)
        await backend.limiter.enter(attempt.need)
        try:
            has_begun.set()
            for one in (counts, self.total):
                one.count_sent(backend)
                one.count_unanswered(backend)  # one of the two answers is not waited for
            return await call.complete()
        finally:
            self._settle(call, counts, step)


class _Sent:
    """One call that is sent once. `settlement`: what it took, where it has ended by itself."""

    __slots__ = ("attempt", "settlement")

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.settlement: Settlement | None = None

    async def complete(self) -> Completion:
        """Ask the model. Raises CallError."""
        attempt = self.attempt
        costs = attempt.backend.costs
        try:
            completion = await attempt.backend.model.complete(attempt.payload, attempt.key)
        except CallError as error:
            self.settlement = costs.failed(error, attempt.payload, attempt.need)
            raise
        self.settlement = costs.answered(completion, attempt.payload, attempt.need)
        return completion
