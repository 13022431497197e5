"""Holds the models that a worker's rows ask, and says which of them a call goes to.

A pool of models has several members, any of which may answer: the least loaded first. One that is held up by its
limits is passed over while another is free; one that fails again and again is left alone for a while, longer each
time, and then tried with a single call. Sends no call itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Protocol

from raypipe.calls.index import CallReader
from raypipe.calls.segments import CallOrigin
from raypipe.contracts.llm import Completion, Usage
from raypipe.contracts.model import EngineFigures, Model, Payload
from raypipe.contracts.model_pool import ModelOrPool, ModelPool, name_members
from raypipe.errors import CallError, HaltedError, InfrastructureError, Retry, halt_reason
from raypipe.execution.context import RunContext
from raypipe.execution.counts import CallCounts
from raypipe.execution.worker.call_costs import WorstCase
from raypipe.limits import LONGEST_WAIT_S, Caps, Cost, Limiter, RetryPolicy, enter_first
from raypipe.limits.limiter import LeaseSource
from raypipe.models import open_model

_HOPELESS = frozenset({"auth", "not_found", "quota"})
"""Kinds of answers that no other row will be spared from."""
_STREAK = 3
_SHORTEST_REST_S, _LONGEST_REST_S = 5.0, 300.0


class Log(Protocol):
    """Where completions are written through."""

    def open(self) -> None: ...

    @property
    def is_full(self) -> bool: ...

    async def append(self, key: bytes, asked: CallOrigin, completion: Completion, latency_s: float) -> None: ...


@dataclass(eq=False)
class Backend:
    """One model, and what is known of how it does."""

    name: str
    """Tells it from the other members."""
    label: str
    model: Model
    limiter: Limiter
    max_tries: int
    worst: Callable[[Payload], Cost]
    """The most that a call can take."""
    cost_of: Callable[[Usage, Cost], Cost]
    """What an answered call took for which so much was reserved."""
    max_wait_s: float = LONGEST_WAIT_S
    hedge_after_s: float | None = None
    weight: float = 1.0
    is_one_of_several: bool = False
    share: float = 0.0
    """Calls that it was given for its weight; not fewer than others had when it last came to its turn."""
    _hopeless: int = 0
    _last_success: float = float("-inf")
    _failed: int = 0
    """Calls in a row that got no answer for a reason that is not theirs."""
    _rests: int = 0
    _rests_until: float = float("-inf")
    _asked_too_long: str = ""

    def choose(self, least: float = 0.0) -> None:
        """Give it a call. What it missed below a share of `least`, while it rested, it does not catch up on."""
        self.share = max(self.share, least) + 1 / self.weight

    def succeeded(self) -> None:
        self._hopeless = self._failed = self._rests = 0
        self._last_success = time.monotonic()

    def failed(self, error: CallError) -> None:
        """A call got no answer: after several in a row it is left alone for a while."""
        if error.retry is Retry.SLOW_DOWN or (error.retry is Retry.NEVER and error.kind not in _HOPELESS):
            return
        self._failed += 1
        if self._failed >= _STREAK and self.is_awake:
            self._rests_until = time.monotonic() + min(_SHORTEST_REST_S * 2**self._rests, _LONGEST_REST_S)
            self._rests += 1

    @property
    def is_awake(self) -> bool:
        """Whether calls may go there: after a rest one at a time, until one is answered."""
        return time.monotonic() >= self._rests_until and (not self._rests or not self.limiter.in_flight)

    def asks_too_long(self, error: CallError) -> bool:
        """Whether it wants to be left alone for longer than the run waits."""
        return (error.after_s or 0.0) > self.max_wait_s

    def has_refused_since(self, moment: float) -> bool:
        """Whether nothing has been answered since then, for longer than the run waits."""
        return self._last_success < moment < time.monotonic() - self.max_wait_s

    @property
    def away(self) -> CallError | None:
        """What it says while it is left alone for longer than the run waits."""
        left_s = self.limiter.pause_s
        if not left_s or left_s <= self.max_wait_s:
            return None
        said = self._asked_too_long or f"model {self.label!r} has asked another worker to wait"
        return CallError(str(said), "rate_limit", Retry.SLOW_DOWN, left_s)

    def is_lost(self, error: CallError, began: float) -> bool:
        """Whether a call that was given up means that the rest will fail alike: nothing was answered since `began`."""
        if self.asks_too_long(error):
            self._asked_too_long = str(error)
            return True
        if error.kind == "unreachable" or error.retry is Retry.SLOW_DOWN:
            return self._last_success < began
        self._hopeless += error.kind in _HOPELESS
        return error.kind in _HOPELESS and self._hopeless >= _STREAK

    @property
    def load(self) -> tuple[float, float]:
        """Smaller for a member that should be asked first: what it has in flight, then what it was given."""
        return self.limiter.in_flight, self.share


def make_backends(
    llm: ModelOrPool, worker: str, replicas: int, coordinator: LeaseSource, caps: Caps, beside: Backend | None = None
) -> list[Backend]:
    """The members of a pool of models, or the one model, as one of `replicas` workers asks them.

    `beside`: one whose engine, and whose place in it, they share.
    """
    found: list[Backend] = []
    for name, one in name_members(llm).items():
        model, worst = open_model(one, beside and beside.model), WorstCase(one, caps)
        client = f"{worker} {name}" if isinstance(llm, ModelPool) else worker
        found.append(
            Backend(
                name=name,
                label=one.label,
                model=model,
                limiter=Limiter(client, one.in_flight(replicas), coordinator, model.endpoint_limits)
                if beside is None
                else beside.limiter,
                max_tries=one.max_tries,
                max_wait_s=one.max_wait_s,
                worst=worst.of,
                cost_of=worst.taken,
                hedge_after_s=one.hedge_after_s,
                weight=one.weight,
                is_one_of_several=isinstance(llm, ModelPool),
            )
        )
    return found


@dataclass(slots=True, eq=False)
class Attempt:
    """A call as one member would be sent it."""

    member: Backend
    payload: Payload
    key: bytes
    need: Cost = field(init=False)
    _patience: RetryPolicy | None = None
    not_before: float = 0.0
    error: CallError | None = None
    refused_at: float | None = None
    """When it was first asked to slow down."""
    is_lost: bool = False

    def begin(self) -> None:
        self.need = self.member.worst(self.payload)

    def pause_after(self, error: CallError) -> float | None:
        """Seconds to wait before the next try; none where there is none."""
        if self._patience is None:
            self._patience = RetryPolicy(self.member.max_tries, self.member.max_wait_s)
        return self._patience.pause_after(error)

    @property
    def is_away(self) -> bool:
        """Whether there is no use in waiting for its member, whose words are noted then."""
        away = self.member.away
        if away is None:
            return False
        self.error, self.is_lost = away, True
        return True


@dataclass
class Desk:
    """What all rows of one worker share when they ask."""

    members: Sequence[Backend]
    """All that are asked by any step."""
    log: Log
    known: CallReader
    run: RunContext
    total: CallCounts = field(default_factory=CallCounts)
    forgotten: frozenset[str] = frozenset()
    """Steps for which calls of earlier runs are not reused."""
    known_of_this_run: CallReader | None = None
    """What this run has logged, once rows are redone."""
    on_the_way: dict[bytes, asyncio.Future[Completion]] = field(default_factory=lambda: {})
    """Calls being made, by key: a row that is redone meanwhile takes their answer."""
    of_step: Mapping[str, Sequence[Backend]] = field(default_factory=lambda: {})
    """Whom a step asks, where not all ask the same."""
    _turn: float = 0.0
    """The share of the member whose turn it was last."""

    @cached_property
    def _is_weighted(self) -> bool:
        return len({member.weight for member in self.members}) > 1

    async def open(self) -> None:
        """Raises InfrastructureError."""
        self.log.open()
        for member in self.members:
            await member.model.open()

    async def close(self) -> None:
        for member in self.members:
            await member.limiter.close()
            await member.model.close()

    def stop(self, error: InfrastructureError) -> HaltedError:
        """Send no call any more, since the run cannot go on; those in flight are waited for."""
        self.halt(halt_reason(error))
        return HaltedError(self.halted_for)

    def halt(self, reason: str) -> None:
        """Send no call any more."""
        for member in self.members:
            member.limiter.halt(reason)

    def asked_by(self, step: str) -> Sequence[Backend]:
        """The members that a step asks."""
        return self.of_step.get(step, self.members)

    @property
    def in_flight(self) -> int:
        return sum(limiter.in_flight for limiter in {member.limiter for member in self.members})

    def figures(self) -> list[EngineFigures]:
        """How the engines are doing that run here."""
        shown = {member.limiter: member.model.figures() for member in self.members}
        return [figures for figures in shown.values() if figures is not None]

    @property
    def halted_for(self) -> str:
        """Why no call is sent any more; empty while calls are."""
        return next((member.limiter.halted_for for member in self.members if member.limiter.halted_for), "")

    @property
    def waits_for(self) -> str:
        """What keeps calls from leaving; empty when nothing does."""
        return self.members[0].limiter.waits_for if all(member.limiter.waits_for for member in self.members) else ""

    def found(self, step: str, key: bytes) -> Completion | None:
        """What the call log knows."""
        known = self.known_of_this_run if step in self.forgotten else self.known
        return known.find(key) if known is not None else None

    async def enter(self, chances: Sequence[Attempt]) -> Attempt:
        """Wait until one of them may be sent; its limiter is to be left again. Raises HaltedError.

        Members of unlike weights wait for their turn, as long as no limit holds them up; others take what they can.
        """
        if len(chances) == 1 and not chances[0].not_before:
            await chances[0].member.limiter.enter(chances[0].need)
            return chances[0]
        while True:
            likely = [one for one in chances if one.member.is_awake] or chances
            now = time.monotonic()
            ready = [one for one in likely if one.not_before <= now]
            if ready:
                return await self._enter_one_of(ready)
            soonest = min(likely, key=lambda one: one.not_before)
            await soonest.member.limiter.sleep(soonest.not_before - now)

    async def _enter_one_of(self, ready: list[Attempt]) -> Attempt:
        if self._is_weighted:
            turn = min(ready, key=lambda one: one.member.share)
            if turn.member.limiter.is_free:
                self._turn = max(self._turn, turn.member.share)
                turn.member.choose(self._turn)
                await turn.member.limiter.enter(turn.need)
                return turn
        ready.sort(key=lambda one: one.member.load)
        first = ready[await enter_first([(one.member.limiter, one.need) for one in ready])]
        first.member.choose()
        return first

    def give_up(self, chances: Sequence[Attempt]) -> CallError:
        """The error of a call that none answered. Raises HaltedError when all the rest will fail alike."""
        if all(one.is_lost for one in chances):
            raise self.stop(InfrastructureError("; ".join(_said_of(one) for one in chances)))
        last = max(chances, key=lambda one: not one.is_lost).error
        assert last is not None
        return last


def _said_of(one: Attempt) -> str:
    """Why a member answers no more, and from when on it may."""
    error, most = one.error, f"max_wait_s={one.member.max_wait_s:g}"
    if error is None or (error.retry is not Retry.SLOW_DOWN and not one.member.asks_too_long(error)):
        return str(error)
    if not one.member.asks_too_long(error):
        return f"{error}; it has asked to wait again and again, for longer than {most} in all; go on later"
    left_s = error.after_s or 0.0
    until = datetime.now(UTC) + timedelta(seconds=left_s)
    way = "go on then with the same command, or raise max_wait_s"
    return f"{error}; it asks to wait {left_s:,.0f} s, until {until:%Y-%m-%d %H:%M:%S} UTC, longer than {most}: {way}"
