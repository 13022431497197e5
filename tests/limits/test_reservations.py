"""What a worker reserves is given back or settled, whatever becomes of the worker; calls that do not fit end."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.contracts.model import EndpointLimits, Quota
from raypipe.errors import HaltedError
from raypipe.limits import Caps, Cost, Lease, Limiter, RateCoordinator, Settlement
from raypipe.limits.budget import SILENT_S
from raypipe.limits.lease_client import MOST_SILENCE_S
from raypipe.limits.limiter import enter_first
from raypipe.limits.messages import Report
from raypipe.limits.rate_controller import RateController
from tests.limits.test_limiter import LIMITS, run

NEED = Cost(1, 50, 50, 4.0)
CAPS = [Caps(tokens=150), Caps(usd=6.0)]
"""Room for one call of this size."""


def coordinator_of(caps: Caps) -> RateCoordinator:
    return RateCoordinator(caps, clock=asyncio.get_running_loop().time)


def limiter_of(name: str, coordinator: Any, slots: int = 4) -> Limiter:
    return Limiter(name, slots, coordinator, lambda: LIMITS)


SPENT = Cost(1, 1, 1, 0.1)


async def asked(limiter: Limiter, spent: Cost | None = SPENT, need: Cost = NEED) -> None:
    async with limiter.permit(need) as permit:
        await asyncio.sleep(0.5)
        permit.spent = spent


@pytest.mark.parametrize("caps", [*CAPS, Caps(calls=2)])
@pytest.mark.parametrize("spent", [None, Cost(1, 1, 1, 0.1)], ids=["unanswered", "answered"])
def test_a_limiter_that_closes_leaves_nothing_reserved(caps: Caps, spent: Cost | None) -> None:
    async def work() -> None:
        coordinator = coordinator_of(caps)
        first, second = limiter_of("stage 0", coordinator), limiter_of("stage 1", coordinator)
        await asked(first, spent)
        await first.close()
        await asyncio.wait_for(asked(second), 5.0)
        await second.close()

    run(work())


@pytest.mark.parametrize("caps", CAPS)
def test_a_limiter_that_closes_while_it_asks_leaves_nothing_reserved(caps: Caps) -> None:
    """The permit was granted, and nobody is there to take it."""

    class Slow(RateCoordinator):
        async def lease(self, report: Report) -> Lease:
            lease = await super().lease(report)
            await asyncio.sleep(0 if report.is_last else 1.0)
            return lease

    async def work() -> None:
        loop = asyncio.get_running_loop()
        coordinator = Slow(caps, clock=loop.time)
        first, second = limiter_of("stage 0", coordinator), limiter_of("stage 1", coordinator)
        waiting = asyncio.create_task(asked(first))
        await asyncio.sleep(0.5)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await first.close()
        await asyncio.wait_for(asked(second), 5.0)

    run(work())


@pytest.mark.parametrize("caps", CAPS)
def test_what_a_worker_held_that_is_not_heard_of_counts_as_spent(caps: Caps) -> None:
    async def work() -> float:
        coordinator, loop = coordinator_of(caps), asyncio.get_running_loop()
        lost, other = limiter_of("lost", coordinator), limiter_of("other", coordinator)
        await lost.permit(NEED).__aenter__()
        await lost._client._owner.close()  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(HaltedError, match="is reached"):
            await asyncio.wait_for(asked(other), 2 * SILENT_S)
        return loop.time()

    assert run(work()) <= SILENT_S + 2


@pytest.mark.parametrize("caps", CAPS)
def test_a_worker_that_is_heard_of_again_holds_what_it_says(caps: Caps) -> None:
    async def work() -> None:
        coordinator, loop = coordinator_of(caps), asyncio.get_running_loop()
        frozen = limiter_of("frozen", coordinator)
        permit = frozen.permit(NEED)
        await permit.__aenter__()
        report = frozen._client.next_report()  # pyright: ignore[reportPrivateUsage]
        await frozen._client._owner.close()  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(SILENT_S + 1)
        other = Report("other", "b", LIMITS)
        await coordinator.lease(other)
        assert coordinator._budget is not None  # pyright: ignore[reportPrivateUsage]
        assert coordinator._budget.spent == NEED  # pyright: ignore[reportPrivateUsage]
        frozen.leave(NEED, Settlement(Cost(1, 1, 1, 0.1)))
        await coordinator.lease(frozen._client.next_report())  # pyright: ignore[reportPrivateUsage]
        assert coordinator._budget.spent == Cost(1, 1, 1, 0.1)  # pyright: ignore[reportPrivateUsage]
        await coordinator.lease(report)
        assert coordinator._budget.spent == Cost(1, 1, 1, 0.1), "an older report that comes late"  # pyright: ignore[reportPrivateUsage]
        assert loop.time() > SILENT_S

    run(work())


def test_a_call_that_does_not_leave_after_all_costs_nothing() -> None:
    """It was granted by two members of a pool of models at once, or its row was given up at that moment."""

    async def work() -> None:
        coordinator = coordinator_of(Caps(calls=2))
        one, two = limiter_of("one", coordinator), limiter_of("two", coordinator)
        for _ in range(20):
            waiting = asyncio.create_task(enter_first([(one, NEED), (two, NEED)]))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.sleep(1.0)
        await asyncio.wait_for(asyncio.gather(asked(one), asked(two)), 5.0)

    run(work())


NEEDS = st.builds(Cost, st.just(1), st.integers(0, 50), st.integers(0, 50), st.floats(0, 2))
LIFE = st.tuples(st.floats(0, 20), st.sampled_from(["close", "kill", "replace"]))


@settings(max_examples=40)
@given(
    needs=st.lists(st.tuples(NEEDS, st.floats(0, 10)), min_size=1, max_size=25),
    caps=st.builds(Caps, st.none() | st.integers(0, 20), st.none() | st.integers(0, 500), st.none() | st.floats(0, 9)),
    lives=st.lists(LIFE, min_size=1, max_size=4),
)
def test_every_call_ends_and_no_cap_is_passed_whatever_becomes_of_workers(
    needs: list[tuple[Cost, float]], caps: Caps, lives: list[tuple[float, str]]
) -> None:
    """Workers are closed, lost without a word, or replaced while calls wait and are in flight."""
    begun: list[Cost] = []

    async def call(limiter: Limiter, need: Cost, after_s: float) -> None:
        await asyncio.sleep(after_s)
        async with limiter.permit(need) as permit:
            begun.append(need)
            await asyncio.sleep(1.0)
            permit.spent = need

    async def worker(name: str, coordinator: RateCoordinator, life: tuple[float, str], share: list[Any]) -> list[Any]:
        limiter = limiter_of(name, coordinator, slots=3)
        tasks = [asyncio.create_task(call(limiter, need, after_s)) for need, after_s in share]
        await asyncio.sleep(life[0])
        if life[1] != "close":  # nothing more is heard of it
            await limiter._client._owner.close()  # pyright: ignore[reportPrivateUsage]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if life[1] == "close":
            await limiter.close()
        if life[1] == "replace":
            after = limiter_of(name, coordinator)
            return await asyncio.gather(*(call(after, need, 0) for need, _ in share), return_exceptions=True)
        return []

    async def work() -> list[Any]:
        coordinator = coordinator_of(caps)
        parts = [needs[number :: len(lives) + 1] for number in range(len(lives) + 1)]
        workers = [worker(f"w{n}", coordinator, life, parts[n]) for n, life in enumerate(lives)]
        survivor = limiter_of("survivor", coordinator)
        calls = [call(survivor, need, after_s) for need, after_s in parts[-1]]
        found = await asyncio.wait_for(asyncio.gather(*workers, *calls, return_exceptions=True), 10 * SILENT_S)
        return [end for one in found for end in (one if isinstance(one, list) else [one])]

    for end in run(work()):
        assert end is None or isinstance(end, HaltedError), end
    total = sum(begun, Cost())
    assert caps.calls is None or total.calls <= caps.calls
    assert caps.tokens is None or total.tokens <= caps.tokens
    assert caps.usd is None or total.usd <= caps.usd * (1 + 1e-9)


# A coordinator that does not answer.


class Frozen:
    """Answers nothing until it thaws."""

    def __init__(self, coordinator: RateCoordinator, until_s: float) -> None:
        self._coordinator, self._until_s = coordinator, until_s

    async def lease(self, report: Report) -> Lease:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(max(0.0, self._until_s - loop.time()))
        return await self._coordinator.lease(report)


def test_an_authority_that_is_frozen_is_spoken_of_and_ends_every_wait() -> None:
    async def work() -> tuple[str, float]:
        limiter, loop = limiter_of("worker", Frozen(coordinator_of(Caps()), 1e6)), asyncio.get_running_loop()
        calls = [asyncio.create_task(asked(limiter)) for _ in range(3)]
        await asyncio.sleep(10.0)
        said = limiter.waits_for
        ends = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 2 * MOST_SILENCE_S)
        assert all(isinstance(end, HaltedError) and "run the same command again" in str(end) for end in ends)
        await limiter.close()
        return said, loop.time()

    said, ended = run(work())
    assert said == "the run's limits, which have not answered for 10 s"
    assert ended <= MOST_SILENCE_S + 1


def test_an_authority_that_thaws_is_asked_on() -> None:
    async def work() -> None:
        limiter = limiter_of("worker", Frozen(coordinator_of(Caps(calls=3)), MOST_SILENCE_S - 5))
        await asyncio.gather(*(asked(limiter) for _ in range(3)))
        assert limiter.waits_for == ""

    run(work())


@pytest.mark.parametrize("error", [ValueError("odd"), RecursionError(), OverflowError()])
def test_whatever_breaks_the_asking_ends_every_wait(error: Exception) -> None:
    """A defect, or a library's exception: here in what an endpoint's limits are read from."""

    async def work() -> list[Any]:
        def limits() -> EndpointLimits:
            raise error

        limiter = Limiter("worker", 2, coordinator_of(Caps()), limits)
        return await asyncio.wait_for(asyncio.gather(*(asked(limiter) for _ in range(3)), return_exceptions=True), 5.0)

    for end in run(work()):
        assert isinstance(end, HaltedError)
        assert str(end).startswith("the run cannot go on: the asking for permits broke")


# Rates that a header names.


@pytest.mark.parametrize("quota", [Quota(tokens=1.0), Quota(input_tokens=0.5), Quota(requests=1.0), Quota(1, 1, 1, 1)])
def test_one_call_a_minute_leaves_whatever_rate_is_named(quota: Quota) -> None:
    controller, now = RateController(refuses=True), 0.0
    controller.learn(quota, now)
    for _ in range(5):
        wait_s = controller.wait_s(now)
        assert wait_s <= 130.0
        now += wait_s + 0.01
        controller.take(Cost(1, 5000, 5000), now)
        controller.settled(Cost(1, 5000, 5000), Cost(1, 10**9, 10**9))
