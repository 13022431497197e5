"""Endpoints of all kinds, played on a clock of their own: their limits are found, used and kept."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from raypipe.contracts.model import EndpointLimits, Quota
from raypipe.limits import Caps, Cost, Limiter, RateCoordinator
from raypipe.limits.rate_controller import RateController
from tests.limits.test_limiter import run

RUN_S = 40.0
REFUSAL_S = 0.02


@dataclass
class Endpoint:
    """Takes `rate(now)` calls a second with a burst, and so many at once; refuses the rest at once."""

    rate: Callable[[float], float] = lambda now: float("inf")
    burst: float = 20.0
    most_at_once: int = 10**9
    latency_s: float = 0.2
    tells_pause: bool = False
    level: float = 20.0
    at: float = 0.0
    in_flight: int = 0
    accepted: list[float] = field(default_factory=list[float])
    refused: list[float] = field(default_factory=list[float])

    async def ask(self) -> float | None:
        """`None`, or the pause asked for by a refusal (0: none was named)."""
        now = asyncio.get_running_loop().time()
        self.level = min(self.burst, self.level + (now - self.at) * self.rate(now))
        self.at = now
        if self.level < 1 or self.in_flight >= self.most_at_once:
            self.refused.append(now)
            await asyncio.sleep(REFUSAL_S)
            return (1 - self.level) / self.rate(now) if self.tells_pause else 0.0
        self.level -= 1
        self.in_flight += 1
        self.accepted.append(now)
        await asyncio.sleep(self.latency_s * (0.5 + hash((len(self.accepted), 7)) % 100 / 100))
        self.in_flight -= 1
        return None

    def accepted_in(self, start: float, end: float) -> float:
        return sum(start <= at < end for at in self.accepted)


def play(endpoint: Endpoint, quota: Callable[[float], Quota] = lambda now: Quota(), slots: int = 128) -> None:
    """Two workers ask as much as they may for `RUN_S` seconds."""

    async def rows(limiter: Limiter) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < RUN_S:
            async with limiter.permit() as permit:
                pause_s = await endpoint.ask()
                permit.spent = Cost(1) if pause_s is None else None
            if pause_s is not None:
                limiter.refused(pause_s or None)
                await asyncio.sleep(max(pause_s, 0.3))

    async def work() -> None:
        loop = asyncio.get_running_loop()
        coordinator = RateCoordinator(Caps(), clock=loop.time)
        limiters = [
            Limiter(f"w{number}", slots, coordinator, lambda: EndpointLimits("there", True, quota(loop.time())))
            for number in range(2)
        ]
        tasks = [asyncio.create_task(rows(limiter)) for limiter in limiters for _ in range(2 * slots)]
        await asyncio.sleep(RUN_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    run(work())


def halved(now: float) -> float:
    return 100.0 if now < 20 else 50.0


@pytest.mark.parametrize("tells_pause", [False, True])
def test_a_rate_that_nobody_names_is_found_and_used(tells_pause: bool) -> None:
    endpoint = Endpoint(halved, tells_pause=tells_pause)
    play(endpoint)
    assert endpoint.accepted_in(5, 20) >= 0.97 * 100 * 15
    assert endpoint.accepted_in(25, 40) >= 0.97 * 50 * 15
    assert len(endpoint.refused) <= 0.03 * len(endpoint.accepted)


def test_a_rate_that_is_named_is_used_from_the_start() -> None:
    endpoint = Endpoint(halved)
    play(endpoint, lambda now: Quota(requests=60 * halved(now)))
    assert endpoint.accepted_in(1, 20) >= 0.97 * 100 * 19
    assert endpoint.accepted_in(21, 40) >= 0.97 * 50 * 19
    assert len(endpoint.refused) <= 0.005 * len(endpoint.accepted)


def test_a_worker_without_an_answer_does_not_undo_what_another_was_told() -> None:
    controller = RateController(refuses=True)
    controller.learn(Quota(requests=60.0), 0.0)
    controller.learn(Quota(), 0.1)
    controller.take(Cost(1), 0.2)
    assert not controller.is_free
    assert controller.wait_s(0.2) > 0.5


def test_a_rate_that_is_raised_is_found_again() -> None:
    endpoint = Endpoint(lambda now: 50.0 if now < 10 else 150.0)
    play(endpoint)
    assert endpoint.accepted_in(30, 40) >= 0.9 * 150 * 10


def test_a_limit_on_calls_in_flight_is_found_and_used() -> None:
    endpoint = Endpoint(most_at_once=32, latency_s=0.5)
    play(endpoint)
    ideal = 32 / 0.5 * 35
    assert endpoint.accepted_in(5, 40) >= 0.85 * ideal
    assert len(endpoint.refused) <= 0.08 * len(endpoint.accepted)


def test_an_endpoint_without_limits_soon_gets_all_calls() -> None:
    endpoint = Endpoint(latency_s=1.0)
    play(endpoint)
    assert endpoint.refused == []
    assert endpoint.accepted_in(0, 6) >= 4 * 250


def test_a_very_slow_rate_is_kept_too() -> None:
    endpoint = Endpoint(lambda now: 1.0, burst=1.0, level=1.0)
    play(endpoint, slots=8)
    assert len(endpoint.accepted) >= 0.4 * RUN_S
    assert len(endpoint.refused) <= RUN_S
