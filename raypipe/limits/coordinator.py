"""Grants permits to the workers of a whole run: one controller for each endpoint and key, one budget for all."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from raypipe.limits.budget import SILENT_S, Budget
from raypipe.limits.messages import NOTHING, Caps, Cost, Lease, Report
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

    `spent`: what runs into the same folder took before. `clock` gives seconds that never go back.
    """

    def __init__(self, caps: Caps, spent: Cost = NOTHING, clock: Callable[[], float] = time.monotonic) -> None:
        self._budget = Budget(caps, spent) if caps else None
        self._endpoints: dict[str, _Endpoint] = {}
        self._clock = clock

    async def lease(self, report: Report) -> Lease:
        """Take a worker's report; gives what the worker may do until the next."""
        now = self._clock()
        if self._budget is not None and not self._budget.settle(report, now):
            return Lease()
        endpoint = self._endpoints.get(report.limits.endpoint)
        if endpoint is None:
            endpoint = self._endpoints[report.limits.endpoint] = _Endpoint(RateController(report.limits.refuses), now)
        self._learn(endpoint, report, now)
        return Lease() if report.is_last else self._answer(endpoint, report, now)

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

    def _answer(self, endpoint: _Endpoint, report: Report, now: float) -> Lease:
        controller = endpoint.controller
        if self._budget is None and controller.is_free and not controller.pause_s(now):
            again_s = _CALM_S if now > endpoint.began + _CALM_AFTER_S else _LATEST_S
            return Lease(len(report.needs), is_free=True, again_s=again_s)
        window = self._window(endpoint, report)
        room = len(report.needs) if window is None else max(0, window - report.in_flight)
        granted, wait_s, waits_for = 0, 0.0, ""
        for need in report.needs[:room]:
            wait_s = controller.wait_s(now)
            if wait_s > 0:
                break
            if self._budget is not None and not self._budget.reserve(report.client, need):
                waits_for = "room under a cap, which calls in flight may leave"
                break
            controller.take(need, now)
            granted += 1
        controller.grow(wait_s > 0, now)
        is_short = granted < len(report.needs)
        again_s = min(max(wait_s, _SOONEST_S), _LATEST_S) if is_short else _LATEST_S
        exhausted = "" if self._budget is None else self._budget.exhausted
        return Lease(granted, False, window, controller.pause_s(now), again_s, waits_for, exhausted)

    def _window(self, endpoint: _Endpoint, report: Report) -> int | None:
        """The worker's share of the calls in flight, by what each could use; `None` where nothing bounds them."""
        size = endpoint.controller.window.size
        if size is None:
            return None
        wanted = {name: other.in_flight + len(other.needs) for name, other in endpoint.reports.items()}
        share = wanted[report.client] / max(1, sum(wanted.values()))
        return max(1, math.ceil(size * share))
