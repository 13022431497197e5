"""Grants permits to the workers of a whole run: one controller for each endpoint and key, one budget for all."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from raypipe.limits.budget import SILENT_S, Budget
from raypipe.limits.life import LedgerPlace
from raypipe.limits.messages import Caps, Lease, Report
from raypipe.limits.rate_controller import RateController

_SOONEST_S, _LATEST_S = 0.01, 0.25
_CALM_AFTER_S, _CALM_S = 5.0, 1.0
"""After so long without a limit, workers report about an endpoint less often."""


@dataclass
class _Endpoint:
    controller: RateController
    began: float
    reports: dict[str, Report] = field(default_factory=dict[str, Report])
    reported_at: dict[str, float] = field(default_factory=dict[str, float])

    def note(self, report: Report, now: float) -> None:
        """Keep a worker's latest report; one that is gone has no share any more."""
        self.reports[report.client], self.reported_at[report.client] = report, now
        gone = [client for client, at in self.reported_at.items() if now - at > SILENT_S]
        for client in [*gone, report.client] if report.is_last else gone:
            del self.reports[client], self.reported_at[client]


class RateCoordinator:
    """The limits of one run, in this process or in an actor of its own.

    `ledger`: where what is spent is written down. `clock` gives seconds that never go back.
    """

    def __init__(
        self, caps: Caps, ledger: LedgerPlace | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Raises OutputError when the ledger cannot be written."""
        self._budget = Budget(caps, None if ledger is None else ledger.open())
        self._is_capped = bool(caps)
        self._endpoints: dict[str, _Endpoint] = {}
        self._clock = clock
        self._writing = asyncio.Lock()

    async def lease(self, report: Report) -> Lease:
        """Take a worker's report; gives what the worker may do until the next.

        Raises OutputError when the ledger cannot be written.
        """
        if self._budget.is_slow:
            async with self._writing:
                return await self._lease(report)
        return await self._lease(report)

    async def close(self) -> None:
        """No worker reports any more: write down what was spent. Raises OutputError."""
        await self._written(self._budget.close)

    async def _written(self, write: Callable[[], None]) -> None:
        """A file is written at once; an object in a store takes its time, in which this loop goes on."""
        if self._budget.is_slow:
            await asyncio.to_thread(write)
        else:
            write()

    async def _lease(self, report: Report) -> Lease:
        now = self._clock()
        if not self._budget.settle(report, now):
            return Lease()
        await self._written(self._budget.note)
        endpoint = self._endpoints.get(report.limits.endpoint)
        if endpoint is None:
            endpoint = self._endpoints[report.limits.endpoint] = _Endpoint(RateController(report.limits.refuses), now)
        self._learn(endpoint, report, now)
        return Lease() if report.is_last else await self._answer(endpoint, report, now)

    def _learn(self, endpoint: _Endpoint, report: Report, now: float) -> None:
        controller = endpoint.controller
        endpoint.note(report, now)
        controller.learn(report.limits.quota, now)
        controller.pace.sent(report.sent, now)
        controller.settled(report.ended, report.spent)
        controller.succeeded(report.succeeded, sum(one.slots for one in endpoint.reports.values()), now)
        controller.pause(report.pause_s, now)
        if report.refused:
            controller.refused(report.refused, sum(one.in_flight for one in endpoint.reports.values()), now)

    async def _answer(self, endpoint: _Endpoint, report: Report, now: float) -> Lease:
        controller = endpoint.controller
        if not self._is_capped and controller.is_free and not controller.pause_s(now):
            again_s = _CALM_S if now > endpoint.began + _CALM_AFTER_S else _LATEST_S
            return Lease(len(report.needs), is_free=True, again_s=again_s)
        window = self._window(endpoint, report)
        room = len(report.needs) if window is None else max(0, window - report.in_flight)
        granted, wait_s, waits_for = 0, 0.0, ""
        if report.needs[:room] and not controller.wait_s(now):
            await self._written(partial(self._budget.cover, report.needs[:room]))
        for need in report.needs[:room]:
            wait_s = controller.wait_s(now)
            if wait_s > 0:
                break
            if self._is_capped and not self._budget.reserve(report.client, need):
                waits_for = "room under a cap, which calls in flight may leave"
                break
            controller.take(need, now)
            granted += 1
        controller.grow(wait_s > 0, now)
        is_short = granted < len(report.needs)
        again_s = min(max(wait_s, _SOONEST_S), _LATEST_S) if is_short else _LATEST_S
        return Lease(granted, False, window, controller.pause_s(now), again_s, waits_for, self._budget.exhausted)

    def _window(self, endpoint: _Endpoint, report: Report) -> int | None:
        """The worker's share of the calls in flight, by what each could use; `None` where nothing bounds them."""
        size = endpoint.controller.window.size
        if size is None:
            return None
        wanted = {name: other.in_flight + len(other.needs) for name, other in endpoint.reports.items()}
        share = wanted[report.client] / max(1, sum(wanted.values()))
        return max(1, math.ceil(size * share))
