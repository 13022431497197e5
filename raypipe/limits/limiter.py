"""Holds the calls of one worker until they may leave: `async with limiter.permit(need) as permit: …`.

A permit is held from the moment a call may leave until its answer is logged, never while a row waits to try again.
As long as the coordinator says that calls are free, a permit costs no message. A call that waits for a permit is
granted one, or hears why there will be none.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from types import TracebackType

from raypipe.contracts.model import EndpointLimits
from raypipe.errors import HaltedError, halt_reason
from raypipe.limits.account import Account
from raypipe.limits.lease_client import LeaseClient, LeaseSource
from raypipe.limits.messages import NOTHING, ONE_CALL, REFUSED, Cost, Lease, Report, Settlement, Total

_MOST_NEEDS = 512
"""Waiting calls in one report."""
_SILENCE_SHOWN_AFTER_S = 5.0
_TIME_SHOWN_AFTER_S, _LONGEST_SHOWN_S = 60.0, 1e10
"""A longer pause is shown with the time at which it ends; a longer one than a date can hold is cut."""


@dataclass(slots=True)
class _Unreported:
    """What has happened since the last report."""

    sent: int = 0
    ended: Cost = NOTHING
    spent: Cost = NOTHING
    refused: int = 0
    pause_s: float = 0.0
    succeeded: int = 0


class Permit:
    """The right to send one call. `spent` is what it took; set it unless the call was refused."""

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
        self._limiter.leave(self._need, REFUSED if self.spent is None else Settlement(self.spent))


class Limiter:
    """Permits for the calls of one worker, inside one event loop.

    `slots`: the most calls in flight. `limits` gives what is known of the endpoint at the moment.
    """

    def __init__(self, name: str, slots: int, coordinator: LeaseSource, limits: Callable[[], EndpointLimits]) -> None:
        self._name = name
        self._slots = slots
        self._window = slots
        """The most calls in flight that the coordinator allows."""
        self._limits = limits
        self._is_free = False
        self._paused_until = 0.0
        self._for_slot: deque[tuple[Cost, asyncio.Future[Limiter]]] = deque()
        self._for_grant: deque[tuple[Cost, asyncio.Future[Limiter]]] = deque()
        self._unreported = _Unreported()
        self._client = LeaseClient(coordinator, self._report, self._apply, lambda error: self.halt(halt_reason(error)))
        self._waits_for = ""
        self._held, self._spent = Total(), Account()
        self._halted = asyncio.Event()
        self.in_flight = 0
        self.halted_for = ""
        """Why no call is sent any more; empty while calls are."""

    @property
    def is_free(self) -> bool:
        """Whether calls leave as soon as there is a slot: no limit is known."""
        return self._is_free and not self.halted_for

    @property
    def waits_for(self) -> str:
        """What keeps calls from leaving; empty when nothing does."""
        silence_s = self._client.silence_s
        if silence_s > _SILENCE_SHOWN_AFTER_S:
            return f"the run's limits, which have not answered for {silence_s:.0f} s"
        if not self._for_grant:
            return ""
        pause_s = self.pause_s
        if pause_s > 1:
            until = datetime.now().astimezone() + timedelta(seconds=min(pause_s, _LONGEST_SHOWN_S))
            moment = f" (until {until:%Y-%m-%d %H:%M:%S %Z})" if pause_s > _TIME_SHOWN_AFTER_S else ""
            return f"the endpoint, which asked to wait {pause_s:.0f} s more{moment}"
        return self._waits_for or "its rate limit"

    @property
    def pause_s(self) -> float:
        """For how long the endpoint has still asked for no call."""
        if not self._paused_until:  # read for each call
            return 0.0
        return max(0.0, self._paused_until - asyncio.get_running_loop().time())

    def permit(self, need: Cost = ONE_CALL) -> Permit:
        """The right to send a call that takes at most `need`. Entering raises HaltedError once no call may be sent."""
        return Permit(self, need)

    async def enter(self, need: Cost) -> None:
        """Wait until a call may leave that takes at most `need`. Raises HaltedError."""
        if not self.enter_now(need):
            await enter_first([(self, need)])

    def enter_now(self, need: Cost) -> bool:
        """Whether a call may leave at once; if so, it does. Raises HaltedError."""
        if self.halted_for:
            raise HaltedError(self.halted_for)
        if not self._is_free or self.in_flight >= self._window:
            return False
        self.in_flight += 1
        self._held.add(need)
        self._unreported.sent += 1
        return True

    def line_up(self, need: Cost, granted: asyncio.Future[Limiter]) -> None:
        """Let a call wait, here and perhaps at other limiters; the first that lets it leave resolves `granted`."""
        while self._for_slot and self._for_slot[0][1].done():
            self._for_slot.popleft()
        self._for_slot.append((need, granted))
        self._move()

    def leave(self, need: Cost, settlement: Settlement, step: str = "", model: str = "") -> None:
        """A call that was sent has ended, and took so much; `step` and `model` say whose it was."""
        unreported = self._unreported
        if settlement.is_answered:
            unreported.succeeded += 1
        self._spent.settle(step, model, settlement)
        # An estimate says nothing of what the endpoint counts: for its pace the call took what was expected of it.
        if not self._is_free and not settlement.is_estimated:
            unreported.ended += need
            unreported.spent += settlement.cost
        self.in_flight -= 1
        self._held.remove(need)
        if self._for_slot:
            self._move()

    def give_back(self, need: Cost) -> None:
        """A call that was allowed to leave is not sent."""
        if not self._is_free:
            self._unreported.ended += need
        self.in_flight -= 1
        self._held.remove(need)
        if self._for_slot:
            self._move()

    def refused(self, pause_s: float | None) -> None:
        """The endpoint asked to slow down, and perhaps for so long a pause."""
        self._unreported.refused += 1
        self.pause(pause_s or 0.0)

    def pause(self, pause_s: float) -> None:
        """The endpoint asked for a pause: no call leaves, whichever row it is for."""
        self._unreported.pause_s = max(self._unreported.pause_s, pause_s)
        if pause_s:
            self._paused_until = max(self._paused_until, asyncio.get_running_loop().time() + pause_s)
        self._is_free = False
        self._client.ask()

    async def sleep(self, pause_s: float) -> None:
        """Wait, but no longer than calls are sent at all. Raises HaltedError."""
        try:
            async with asyncio.timeout(pause_s):
                await self._halted.wait()
        except TimeoutError:
            return
        raise HaltedError(self.halted_for)

    def halt(self, reason: str) -> None:
        """Send no call from now on; those that wait raise HaltedError with the reason."""
        if self.halted_for:
            return
        self.halted_for = reason
        self._client.is_stopped = True
        self._halted.set()
        for waiting in (self._for_slot, self._for_grant):
            for _, granted in waiting:
                if not granted.done():
                    granted.set_exception(HaltedError(reason))
            waiting.clear()

    async def close(self) -> None:
        """Stop asking for permits; what was reserved here is free again."""
        await self._client.close()

    def _move(self) -> None:
        """Calls for which a slot is free go on: they leave, or wait for a grant."""
        while self._for_slot and self.in_flight + len(self._for_grant) < self._window:
            need, granted = self._for_slot.popleft()
            if granted.done():
                continue
            if self._is_free:
                self._unreported.sent += 1
                self._let_leave(need, granted)
            else:
                self._for_grant.append((need, granted))
        if self._for_grant:
            self._client.ask()

    def _let_leave(self, need: Cost, granted: asyncio.Future[Limiter]) -> None:
        self.in_flight += 1
        self._held.add(need)
        granted.set_result(self)

    def _report(self, life: str, number: int, is_last: bool) -> Report:
        unreported, self._unreported = self._unreported, _Unreported()
        if any(granted.done() for _, granted in self._for_grant):
            self._for_grant = deque(one for one in self._for_grant if not one[1].done())
        return Report(
            client=self._name,
            life=life,
            limits=self._limits(),
            number=number,
            is_last=is_last,
            held=self._held.cost,
            accounts=self._spent.entries,
            needs=() if is_last else tuple(need for need, _ in islice(self._for_grant, _MOST_NEEDS)),
            sent=unreported.sent,
            ended=unreported.ended,
            spent=unreported.spent,
            refused=unreported.refused,
            pause_s=unreported.pause_s,
            succeeded=unreported.succeeded,
            in_flight=self.in_flight,
            slots=self._slots,
        )

    def _apply(self, lease: Lease) -> bool:
        """Do what a lease allows; whether calls still wait for a grant."""
        self._is_free, self._waits_for = lease.is_free, lease.waits_for
        self._window = self._slots if lease.window is None else min(self._slots, lease.window)
        now = asyncio.get_running_loop().time()
        self._paused_until = max(self._paused_until, now + lease.pause_s) if lease.pause_s else 0.0
        for _ in range(min(lease.granted, len(self._for_grant))):
            need, granted = self._for_grant.popleft()
            if granted.done():  # it was given up while the coordinator was asked
                self._unreported.ended += need
            else:
                self._let_leave(need, granted)
        if lease.exhausted:
            self.halt(lease.exhausted)
        else:
            self._move()
        return bool(self._for_grant)


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
