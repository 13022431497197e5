"""Holds the calls of one worker until they may leave: `async with limiter.permit(need) as permit: …`.

A permit is held from the moment a call may leave until its answer is logged, never while a row waits to try again.
As long as the coordinator says that calls are free, a permit costs no message. Whatever ends the asking ends the run: a
call that waits for a permit is granted one or told why there will be none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from types import TracebackType
from typing import Protocol
from uuid import uuid4

from raypipe.concurrency.background import TaskOwner, TaskScope
from raypipe.contracts.model import EndpointLimits
from raypipe.errors import HaltedError, InfrastructureError, RaypipeError, halt_reason
from raypipe.limits.amounts import NOTHING, ONE_CALL, Cost, Lease, Report, Total
from raypipe.limits.coordinator import RateCoordinator

_MOST_NEEDS = 512
"""Waiting calls in one report."""
_SOONEST_S = 0.002
_SAID_AFTER_S = 5.0
"""Progress tells of a coordinator that has not answered for so long."""
MOST_SILENCE_S, _LOOKS = 45.0, 9
"""The same, before the run ends."""
_LAST_WORD_S = 2.0
_WORTH_A_TIME_S, _SPOKEN_S = 60.0, 1e10


class LeaseSource(Protocol):
    """The coordinator, wherever it lives."""

    async def lease(self, report: Report) -> Lease: ...


@dataclass(slots=True)
class _Counted:
    """What the next report says."""

    sent: int = 0
    ended: Cost = NOTHING
    spent: Cost = NOTHING
    refused: int = 0
    pause_s: float = 0.0
    succeeded: int = 0


class Permit:
    """The right to send one call. `spent` is what it took; set it when the call was answered."""

    __slots__ = ("_limiter", "_need", "spent")

    def __init__(self, limiter: Limiter, need: Cost) -> None:
        self._limiter = limiter
        self._need = need
        self.spent: Cost | None = None

    async def __aenter__(self) -> Permit:
        await self._limiter.enter(self._need)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._limiter.leave(self._need, self.spent)


class Limiter:
    """Permits for the calls of one worker, inside one event loop."""

    def __init__(self, name: str, slots: int, coordinator: LeaseSource, limits: Callable[[], EndpointLimits]) -> None:
        self._name = name
        self._life = uuid4().hex
        self._slots = slots
        self._window = slots
        self._coordinator = coordinator
        self._limits = limits
        self._is_free = False
        self._paused_until = 0.0
        self._for_slot: deque[tuple[Cost, asyncio.Future[Limiter]]] = deque()
        self._for_grant: deque[tuple[Cost, asyncio.Future[Limiter]]] = deque()
        self._counted = _Counted()
        self._asked = 0
        self._news = asyncio.Event()
        self._owner = TaskOwner(self._broke)
        self._asking: asyncio.Task[None] | None = None
        self._number = 0
        self._asked_at: float | None = None
        self._waits_for = ""
        self._held, self._spent = Total(), Total()
        self._is_lost = False
        """Whether the coordinator can be asked no more."""
        self._is_closed = False
        self._halted = asyncio.Event()
        self.in_flight = 0
        self.halted_for = ""
        """Why no call is sent any more; empty while calls are."""

    def permit(self, need: Cost = ONE_CALL) -> Permit:
        """The right to send a call that takes at most `need`. Entering raises HaltedError once no call may be sent."""
        return Permit(self, need)

    @property
    def is_free(self) -> bool:
        """Whether calls leave as soon as there is a slot: no limit is known."""
        return self._is_free and not self.halted_for

    @property
    def waits_for(self) -> str:
        """What keeps calls from leaving; empty when nothing does."""
        if self._asked_at is not None:
            silence_s = asyncio.get_running_loop().time() - self._asked_at
            if silence_s > _SAID_AFTER_S:
                return f"the run's limits, which have not answered for {silence_s:.0f} s"
        if not self._for_grant:
            return ""
        pause_s = self.pause_s
        if pause_s > 1:
            until = datetime.now().astimezone() + timedelta(seconds=min(pause_s, _SPOKEN_S))
            moment = f" (until {until:%Y-%m-%d %H:%M:%S %Z})" if pause_s > _WORTH_A_TIME_S else ""
            return f"the endpoint, which asked to wait {pause_s:.0f} s more{moment}"
        return self._waits_for or "its rate limit"

    @property
    def pause_s(self) -> float:
        """How long the endpoint asked to be left alone."""
        if not self._paused_until:  # read for each call
            return 0.0
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())

    # Calls.

    async def enter(self, need: Cost) -> None:
        if not self.enter_now(need):
            await enter_first([(self, need)])

    def enter_now(self, need: Cost) -> bool:
        """Whether a call may leave at once; if so, it does. Raises HaltedError."""
        if self.halted_for:
            raise HaltedError(self.halted_for)
        if not self._is_free or self.in_flight >= self._window:
            return False
        self._hold(need)
        self._counted.sent += 1
        return True

    def line_up(self, need: Cost, granted: asyncio.Future[Limiter]) -> None:
        """A call waits here, perhaps elsewhere too: the first that lets it leave says so in `granted`."""
        while self._for_slot and self._for_slot[0][1].done():
            self._for_slot.popleft()
        self._for_slot.append((need, granted))
        self._move()

    def leave(self, need: Cost, spent: Cost | None) -> None:
        """A call that was sent has ended; `spent` is what it took, `None` where it was not answered."""
        counted = self._counted
        if spent is not None:
            counted.succeeded += 1
        self._spent.add(spent or ONE_CALL)
        if not self._is_free:
            counted.ended += need
            counted.spent += spent or ONE_CALL
        self._let_go(need)

    def give_back(self, need: Cost) -> None:
        """A call that was let leave is not sent."""
        if not self._is_free:
            self._counted.ended += need
        self._let_go(need)

    def _hold(self, need: Cost) -> None:
        self.in_flight += 1
        self._held.add(need)

    def _let_go(self, need: Cost) -> None:
        self.in_flight -= 1
        self._held.remove(need)
        if self._for_slot:
            self._move()

    def refused(self, pause_s: float | None) -> None:
        """The endpoint asked to slow down, for so long if it said so."""
        self._counted.refused += 1
        self.pause(pause_s or 0.0)

    def pause(self, pause_s: float) -> None:
        """The endpoint asked to be left alone for so long: no call leaves, whichever row it is for."""
        self._counted.pause_s = max(self._counted.pause_s, pause_s)
        if pause_s:
            self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + pause_s)
        self._is_free = False
        self._ask()

    async def sleep(self, pause_s: float) -> None:
        """Wait, but no longer than calls are sent at all."""
        try:
            async with asyncio.timeout(pause_s):
                await self._halted.wait()
        except TimeoutError:
            return
        raise HaltedError(self.halted_for)

    def halt(self, reason: str) -> None:
        """From now on no call is sent; those that wait are told so."""
        if self.halted_for:
            return
        self.halted_for = reason
        self._halted.set()
        for waiting in (self._for_slot, self._for_grant):
            for _, granted in waiting:
                if not granted.done():
                    granted.set_exception(HaltedError(reason))
            waiting.clear()

    def _broke(self, error: RaypipeError) -> None:
        self._is_lost = True
        self.halt(halt_reason(error))

    async def close(self) -> None:
        """Ask no more, and say so: what was reserved here is somebody else's again."""
        self._is_closed = True
        await self._owner.close()
        if self._number and not self._is_lost:
            with suppress(RaypipeError, TimeoutError):  # then it counts as spent once nothing is heard any more
                async with asyncio.timeout(_LAST_WORD_S):
                    await self._coordinator.lease(self._report(is_last=True))

    # Permits.

    def _move(self) -> None:
        """Calls for which a slot is free go on: away, or to wait for a grant."""
        while self._for_slot and self.in_flight + len(self._for_grant) < self._window:
            need, granted = self._for_slot.popleft()
            if granted.done():
                continue
            if self._is_free:
                self._counted.sent += 1
                self._go(need, granted)
            else:
                self._for_grant.append((need, granted))
        if self._for_grant:
            self._ask()

    def _go(self, need: Cost, granted: asyncio.Future[Limiter]) -> None:
        self._hold(need)
        granted.set_result(self)

    def _ask(self) -> None:
        self._news.set()
        if not self._is_closed and (self._asking is None or self._asking.done()):
            self._asking = self._owner.start(self._keep_asking(), "the asking for permits")

    async def _keep_asking(self) -> None:
        while not self.halted_for:
            self._news.clear()
            lease = await self._leased()
            self._take(lease)
            if self._for_grant and lease.granted < self._asked:
                await asyncio.sleep(lease.again_s)
            else:
                await asyncio.sleep(_SOONEST_S)
                with suppress(TimeoutError):
                    # Not `wait_for`: in Python 3.11 it forgets that it was cancelled when news come at that moment.
                    async with asyncio.timeout(lease.again_s):
                        await self._news.wait()

    async def _leased(self) -> Lease:
        """What the coordinator answers. Raises InfrastructureError when it does not."""
        if isinstance(self._coordinator, RateCoordinator):
            # In this process it answers at once: with a task between, calls that may go to several endpoints would all
            # be lined up before the first one is let go, and all go there.
            return await self._coordinator.lease(self._report())
        self._asked_at = asyncio.get_running_loop().time()
        try:
            async with TaskScope() as scope:
                asking = scope.start(self._coordinator.lease(self._report()))
                for _ in range(_LOOKS):  # time in which this loop did not turn does not count
                    await asyncio.wait({asking}, timeout=MOST_SILENCE_S / _LOOKS)
                    if asking.done():
                        return asking.result()
        finally:
            self._asked_at = None
        problem = f"the worker that keeps the run's limits has given no answer for {MOST_SILENCE_S:.0f} s"
        raise InfrastructureError(f"{problem}; run the same command again to go on")

    def _report(self, is_last: bool = False) -> Report:
        counted, self._counted = self._counted, _Counted()
        self._drop_given_up()
        needs = () if is_last else tuple(need for need, _ in islice(self._for_grant, _MOST_NEEDS))
        self._asked = len(needs)
        self._number += 1
        return Report(
            client=self._name,
            life=self._life,
            limits=self._limits(),
            number=self._number,
            is_last=is_last,
            held=self._held.amount,
            spent_so_far=self._spent.amount,
            needs=needs,
            sent=counted.sent,
            ended=counted.ended,
            spent=counted.spent,
            refused=counted.refused,
            pause_s=counted.pause_s,
            succeeded=counted.succeeded,
            in_flight=self.in_flight,
            slots=self._slots,
        )

    def _drop_given_up(self) -> None:
        if any(granted.done() for _, granted in self._for_grant):
            self._for_grant = deque(one for one in self._for_grant if not one[1].done())

    def _take(self, lease: Lease) -> None:
        loop = asyncio.get_running_loop()
        self._is_free, self._waits_for = lease.is_free, lease.waits_for
        self._window = self._slots if lease.window is None else min(self._slots, lease.window)
        self._paused_until = max(self._paused_until, loop.time() + lease.pause_s) if lease.pause_s else 0.0
        for _ in range(min(lease.granted, len(self._for_grant))):
            need, granted = self._for_grant.popleft()
            if granted.done():
                # It was given up while the coordinator was asked.
                self._counted.ended += need
                continue
            self._go(need, granted)
        if lease.exhausted:
            self.halt(lease.exhausted)
        else:
            self._move()


async def enter_first(choices: Sequence[tuple[Limiter, Cost]]) -> int:
    """Enter the first limiter that lets a call leave, in this order where several do; gives its index.

    Raises HaltedError once one of them lets none leave any more.
    """
    for index, (limiter, need) in enumerate(choices):
        if limiter.enter_now(need):
            return index
    granted: asyncio.Future[Limiter] = asyncio.get_running_loop().create_future()
    for limiter, need in choices:
        if not granted.done():
            limiter.line_up(need, granted)
    limiters = [limiter for limiter, _ in choices]
    try:
        return limiters.index(await granted)
    except asyncio.CancelledError:
        if granted.done() and not granted.cancelled() and granted.exception() is None:
            index = limiters.index(granted.result())
            limiters[index].give_back(choices[index][1])
        raise
