"""Reports to the coordinator of a run for one worker, and brings its leases, for as long as there is news.

Whatever ends the reporting ends the run: no call waits for a permit that nobody asks for. Knows nothing of how calls
wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Protocol
from uuid import uuid4

from raypipe.concurrency.background import TaskOwner, TaskScope
from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.limits.coordinator import RateCoordinator
from raypipe.limits.messages import Lease, Report

_SOONEST_S = 0.002
MOST_SILENCE_S, _LOOKS = 45.0, 9
"""How long an answer of the coordinator is waited for before the run ends, and in how many steps."""
_LAST_REPORT_S = 2.0


class LeaseSource(Protocol):
    """The coordinator, wherever it lives."""

    async def lease(self, report: Report) -> Lease: ...


class LeaseClient:
    """One worker as the coordinator knows it, inside one event loop."""

    def __init__(
        self,
        source: LeaseSource,
        report: Callable[[str, int, bool], Report],
        apply: Callable[[Lease], bool],
        on_failure: Callable[[RaypipeError], None],
    ) -> None:
        """`report` makes a report from a life of the worker, a number and whether it is the last. `apply` says whether
        calls still wait for a grant. `on_failure` gets the reason why no lease will come any more."""
        self._source, self._report, self._apply, self._on_failure = source, report, apply, on_failure
        self._life = uuid4().hex
        self._number = 0
        self._news = asyncio.Event()
        self._owner = TaskOwner(self._fail)
        self._asking: asyncio.Task[None] | None = None
        self._asked_at: float | None = None
        self._is_lost = False
        """Whether the coordinator cannot be asked any more."""
        self._is_closed = False
        self.is_stopped = False
        """No call is sent any more: there is nothing to ask for."""

    @property
    def silence_s(self) -> float:
        """For how long an answer has been waited for."""
        return 0.0 if self._asked_at is None else asyncio.get_running_loop().time() - self._asked_at

    def ask(self) -> None:
        """Report soon: there is news."""
        self._news.set()
        if not self._is_closed and (self._asking is None or self._asking.done()):
            self._asking = self._owner.start(self._keep_asking(), "the asking for permits")

    def next_report(self, is_last: bool = False) -> Report:
        """What there is to report now; reports are numbered."""
        self._number += 1
        return self._report(self._life, self._number, is_last)

    async def _keep_asking(self) -> None:
        while not self.is_stopped:
            self._news.clear()
            report = self.next_report()
            lease = await self._answer(report)
            if self._apply(lease) and lease.granted < len(report.needs):
                await asyncio.sleep(lease.again_s)
            else:
                await asyncio.sleep(_SOONEST_S)
                with suppress(TimeoutError):
                    # Not `wait_for`: in Python 3.11 it forgets that it was cancelled when news come at that moment.
                    async with asyncio.timeout(lease.again_s):
                        await self._news.wait()

    async def _answer(self, report: Report) -> Lease:
        """The answer of the coordinator. Raises InfrastructureError when there is none in time."""
        if isinstance(self._source, RateCoordinator):
            # In this process it answers at once: with a task between, calls that may go to several endpoints would all
            # be lined up before the first one is let go, and all go there.
            return await self._source.lease(report)
        self._asked_at = asyncio.get_running_loop().time()
        try:
            async with TaskScope() as scope:
                asking = scope.start(self._source.lease(report))
                for _ in range(_LOOKS):  # time in which this loop did not turn does not count
                    await asyncio.wait({asking}, timeout=MOST_SILENCE_S / _LOOKS)
                    if asking.done():
                        return asking.result()
        finally:
            self._asked_at = None
        problem = f"the worker that keeps the run's limits has given no answer for {MOST_SILENCE_S:.0f} s"
        raise InfrastructureError(f"{problem}; run the same command again to go on")

    def _fail(self, error: RaypipeError) -> None:
        self._is_lost = True
        self._on_failure(error)

    async def close(self) -> None:
        """Stop asking, and report for the last time: what was reserved for the worker is free again."""
        self._is_closed = True
        await self._owner.close()
        if self._number and not self._is_lost:
            with suppress(RaypipeError, TimeoutError):  # then it counts as spent after a while of silence
                async with asyncio.timeout(_LAST_REPORT_S):
                    await self._source.lease(self.next_report(is_last=True))
