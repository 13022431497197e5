"""Permits are bounded, a pause holds up everyone, no budget is passed, and patience ends."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.contracts.model import EndpointLimits
from raypipe.errors import CallError, HaltedError, InfrastructureError, Retry
from raypipe.limits import Caps, Cost, Lease, LedgerPlace, Limiter, RateCoordinator, RetryPolicy, Spent
from raypipe.limits.retry import FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_WAIT_S

CAPS, LIMITS = Caps(), EndpointLimits("somewhere")


class _NoWaiting(selectors.SelectSelector):
    """Waiting costs no time: the clock jumps to where it would have stood."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self.now += timeout
        return ready


class Clocked(asyncio.SelectorEventLoop):
    """An event loop with a clock of its own."""

    def __init__(self) -> None:
        self.selector = _NoWaiting()
        super().__init__(self.selector)

    def time(self) -> float:
        return self.selector.now


def run(work: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=Clocked) as runner:
        return runner.run(work)


def limiter_of(
    slots: int, caps: Caps = CAPS, limits: EndpointLimits = LIMITS, coordinator: RateCoordinator | None = None
) -> Limiter:
    clock = asyncio.get_running_loop().time
    return Limiter("worker", slots, coordinator or RateCoordinator(caps, clock=clock), lambda: limits)


@settings(max_examples=30)
@given(
    concurrency=st.integers(1, 5),
    calls=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 3)), min_size=1, max_size=20),
)
def test_no_more_calls_are_on_their_way_than_allowed(concurrency: int, calls: list[tuple[float, float]]) -> None:
    async def work() -> tuple[int, int]:
        limiter, most, done = limiter_of(concurrency), 0, 0

        async def call(after_s: float, takes_s: float) -> None:
            nonlocal most, done
            await asyncio.sleep(after_s)
            async with limiter.permit():
                most = max(most, limiter.in_flight)
                await asyncio.sleep(takes_s)
            done += 1

        await asyncio.gather(*(call(*one) for one in calls))
        assert limiter.in_flight == 0
        return most, done

    most, done = run(work())
    assert (most <= concurrency, done) == (True, len(calls))


def test_a_pause_that_an_endpoint_asks_for_holds_up_every_call() -> None:
    async def work() -> list[float]:
        limiter, started = limiter_of(3), []
        loop = asyncio.get_running_loop()

        async def call() -> None:
            async with limiter.permit():
                started.append(loop.time())

        await call()
        limiter.refused(2.0)
        await asyncio.sleep(0.5)
        await asyncio.gather(*(call() for _ in range(3)))
        return started

    first, *others = run(work())
    assert first < 0.1
    assert min(others) >= 2.0


def test_a_call_that_is_given_up_gives_its_permit_back() -> None:
    async def work() -> None:
        limiter = limiter_of(1)
        limiter.refused(10.0)

        async def call() -> None:
            async with limiter.permit():
                pass

        waiting = asyncio.create_task(call())
        await asyncio.sleep(1.0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(call(), 60.0)

    run(work())


def test_once_halted_no_call_leaves_and_those_in_flight_end() -> None:
    async def work() -> tuple[list[Any], float]:
        limiter, loop = limiter_of(2), asyncio.get_running_loop()

        async def call() -> str:
            async with limiter.permit():
                await asyncio.sleep(5.0)
            return "sent"

        calls = [asyncio.create_task(call()) for _ in range(4)]
        sleeping = asyncio.create_task(limiter.sleep(1000.0))
        await asyncio.sleep(1.0)
        limiter.halt("enough")
        found = await asyncio.gather(*calls, sleeping, call(), return_exceptions=True)
        return found, loop.time()

    found, ended = run(work())
    assert found[:2] == ["sent", "sent"]
    assert [str(error) for error in found[2:]] == ["enough"] * 4
    assert all(isinstance(error, HaltedError) for error in found[2:])
    assert ended == pytest.approx(5.0, abs=0.1)


def test_it_closes_at_the_moment_at_which_there_are_news() -> None:
    async def work() -> None:
        limiter = limiter_of(1)
        async with limiter.permit():
            await asyncio.sleep(1.0)
            limiter.refused(None)
            await limiter.close()

    run(asyncio.wait_for(work(), 60.0))


def test_an_authority_that_is_gone_ends_every_wait() -> None:
    class Gone:
        async def lease(self, report: Any) -> Lease:
            raise InfrastructureError("gone")

    async def work() -> list[Any]:
        limiter = Limiter("worker", 2, Gone(), lambda: LIMITS)
        return await asyncio.gather(*(limiter.permit().__aenter__() for _ in range(3)), return_exceptions=True)

    assert [str(error) for error in run(work())] == ["the run cannot go on: gone"] * 3


# Budgets.

NEEDS = st.builds(Cost, st.just(1), st.integers(0, 50), st.integers(0, 50), st.floats(0, 2))


@settings(max_examples=50, deadline=None)
@given(
    needs=st.lists(NEEDS, min_size=1, max_size=40),
    share=st.floats(0, 1),
    caps=st.builds(Caps, st.none() | st.integers(0, 30), st.none() | st.integers(0, 900), st.none() | st.floats(0, 20)),
    workers=st.integers(1, 3),
)
def test_no_cap_is_ever_passed_and_every_call_ends(needs: list[Cost], share: float, caps: Caps, workers: int) -> None:
    spent: list[Cost] = []

    async def call(limiter: Limiter, need: Cost) -> None:
        async with limiter.permit(need) as permit:
            await asyncio.sleep(1.0)
            taken = Cost(1, int(need.input_tokens * share), int(need.output_tokens * share), need.usd * share)
            permit.spent = taken
            spent.append(taken)

    async def work() -> list[Any]:
        coordinator = RateCoordinator(caps, clock=asyncio.get_running_loop().time)
        limiters = [Limiter(f"w{number}", 4, coordinator, lambda: LIMITS) for number in range(workers)]
        calls = [call(limiters[number % workers], need) for number, need in enumerate(needs)]
        return await asyncio.gather(*calls, return_exceptions=True)

    ends = run(work())
    total = sum(spent, Cost())
    assert len(spent) == ends.count(None)
    assert all(end is None or isinstance(end, HaltedError) for end in ends)
    assert caps.calls is None or total.calls <= caps.calls
    assert caps.tokens is None or total.tokens <= caps.tokens
    assert caps.usd is None or total.usd <= caps.usd * (1 + 1e-9)
    if caps.calls is not None and (caps.tokens, caps.usd) == (None, None):
        assert total.calls == min(caps.calls, len(needs)), "a cap on calls is used up"


def test_what_earlier_runs_spent_counts(tmp_path: Path) -> None:
    async def work() -> list[Any]:
        before = LedgerPlace(tmp_path, "before").open()
        before.close((Spent("step", "model", 3),))
        clock = asyncio.get_running_loop().time
        coordinator = RateCoordinator(Caps(calls=5), LedgerPlace(tmp_path, "now"), clock=clock)
        limiter = Limiter("worker", 4, coordinator, lambda: LIMITS)
        return list(await asyncio.gather(*(limiter.permit().__aenter__() for _ in range(4)), return_exceptions=True))

    found = run(work())
    assert [str(one) for one in found if isinstance(one, Exception)] == ["max_calls=5 is reached"] * 2


def test_what_a_lost_worker_had_reserved_counts_as_spent() -> None:
    async def work() -> list[Any]:
        coordinator = RateCoordinator(Caps(usd=10.0), clock=asyncio.get_running_loop().time)
        need = Cost(1, usd=4.0)
        first = Limiter("worker", 4, coordinator, lambda: LIMITS)
        await asyncio.gather(*(first.permit(need).__aenter__() for _ in range(2)))
        second = Limiter("worker", 4, coordinator, lambda: LIMITS)
        return await asyncio.gather(second.permit(need).__aenter__(), return_exceptions=True)

    [error] = run(work())
    assert str(error).startswith("max_cost_usd=10 is reached ($2.0000 left")


def pauses(error: CallError, max_tries: int) -> list[float]:
    """Every pause until patience ends."""
    patience, found = RetryPolicy(max_tries), []
    while (pause := patience.pause_after(error)) is not None:
        found.append(pause)
        assert len(found) < 10_000
    return found


def test_what_cannot_pass_is_not_tried_again() -> None:
    assert pauses(CallError("no", retry=Retry.NEVER), 5) == []


@given(st.integers(1, 12))
def test_what_may_pass_is_tried_so_often_with_growing_pauses(max_tries: int) -> None:
    found = pauses(CallError("later", retry=Retry.LATER), max_tries)
    assert len(found) == max_tries - 1
    for number, pause in enumerate(found):
        expected = min(FIRST_PAUSE_S * 2**number, LONGEST_PAUSE_S)
        assert 0.75 * expected <= pause <= 1.25 * expected


def test_a_pause_that_was_asked_for_is_kept() -> None:
    assert pauses(CallError("later", retry=Retry.LATER, after_s=90.0), 3) == [90.0, 90.0]
    patience = RetryPolicy(2)
    assert patience.pause_after(CallError("slow", retry=Retry.SLOW_DOWN, after_s=7.0)) == 7.0


@pytest.mark.parametrize("after_s", [None, 0.5, 60.0])
def test_requests_to_slow_down_are_no_tries_but_end_too(after_s: float | None) -> None:
    found = pauses(CallError("slow", retry=Retry.SLOW_DOWN, after_s=after_s), 1)
    assert len(found) > 10
    assert sum(found) <= LONGEST_WAIT_S
    assert sum(found) > LONGEST_WAIT_S - 1.25 * max(after_s or 0.0, LONGEST_PAUSE_S)


def test_a_wait_of_nothing_ends_too() -> None:
    """An endpoint that always says `Retry-After: 0` must not be asked forever."""
    assert len(pauses(CallError("slow", retry=Retry.SLOW_DOWN, after_s=0.0), 1)) < 10_000
