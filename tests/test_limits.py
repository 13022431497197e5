"""Permits are bounded, a pause holds up everyone, and patience ends."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.errors import CallError, Retry
from raypipe.limits import FIRST_PAUSE_S, LONGEST_PAUSE_S, LONGEST_SLOW_DOWN_S, Limiter, Patience


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


@settings(max_examples=30)
@given(
    concurrency=st.integers(1, 5),
    calls=st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 3)), min_size=1, max_size=20),
)
def test_no_more_calls_are_on_their_way_than_allowed(concurrency: int, calls: list[tuple[float, float]]) -> None:
    async def work() -> tuple[int, int]:
        limiter, most, done = Limiter(concurrency), 0, 0

        async def call(after_s: float, takes_s: float) -> None:
            nonlocal most, done
            await asyncio.sleep(after_s)
            async with limiter:
                most = max(most, limiter.in_flight)
                await asyncio.sleep(takes_s)
            done += 1

        await asyncio.gather(*(call(*one) for one in calls))
        assert limiter.in_flight == 0
        return most, done

    most, done = run(work())
    assert (most <= concurrency, done) == (True, len(calls))


def test_a_pause_holds_up_every_call_until_it_is_over() -> None:
    async def work() -> list[float]:
        limiter, started = Limiter(3), []
        loop = asyncio.get_running_loop()

        async def call() -> None:
            async with limiter:
                started.append(loop.time())

        limiter.pause(2.0)
        waiting = [asyncio.create_task(call()) for _ in range(5)]
        await asyncio.sleep(1.0)
        limiter.pause(4.0)
        limiter.pause(0.5)
        await asyncio.gather(*waiting)
        return started

    assert run(work()) == pytest.approx([5.0] * 5)


def test_a_call_that_is_given_up_gives_its_permit_back() -> None:
    async def work() -> None:
        limiter = Limiter(1)
        limiter.pause(10.0)

        async def call() -> None:
            async with limiter:
                pass

        waiting = asyncio.create_task(call())
        await asyncio.sleep(1.0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await asyncio.wait_for(call(), 60.0)

    run(work())


def pauses(error: CallError, max_tries: int) -> list[float]:
    """Every pause until patience ends."""
    patience, found = Patience(max_tries), []
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
    patience = Patience(2)
    assert patience.pause_after(CallError("slow", retry=Retry.SLOW_DOWN, after_s=7.0)) == 7.0


@pytest.mark.parametrize("after_s", [None, 0.5, 60.0])
def test_requests_to_slow_down_are_no_tries_but_end_too(after_s: float | None) -> None:
    found = pauses(CallError("slow", retry=Retry.SLOW_DOWN, after_s=after_s), 1)
    assert len(found) > 10
    assert sum(found) <= LONGEST_SLOW_DOWN_S
    assert sum(found) > LONGEST_SLOW_DOWN_S - 1.25 * max(after_s or 0.0, LONGEST_PAUSE_S)


def test_a_wait_of_nothing_ends_too() -> None:
    """An endpoint that always says `Retry-After: 0` must not be asked forever."""
    assert len(pauses(CallError("slow", retry=Retry.SLOW_DOWN, after_s=0.0), 1)) < 10_000
