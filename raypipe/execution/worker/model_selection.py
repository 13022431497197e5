"""Chooses the model that a call goes to.

A pool of models has several, any of which may answer: the least loaded first. A model that is held up by its limits is
passed over while another is free, and so is one whose circuit is open. Sends no call.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from raypipe.contracts.model import EngineFigures, Payload
from raypipe.errors import CallError, HaltedError, InfrastructureError, Retry, halt_reason
from raypipe.execution.worker.backend import Backend
from raypipe.limits import Cost, RetryPolicy, enter_first


@dataclass(slots=True, eq=False)
class Attempt:
    """A call as one model would be sent it."""

    backend: Backend
    payload: Payload
    key: bytes
    need: Cost = field(init=False)
    """The most that it can take, set when it is begun: what is found in the call log has no cost."""
    not_before: float = 0.0
    """When it may be tried next (`time.monotonic`)."""
    error: CallError | None = None
    is_lost: bool = False
    """Whether all further calls of its model will fail alike."""
    _retries: RetryPolicy | None = None
    _refused_at: float | None = None
    """When it was first asked to slow down."""

    def fail(self, error: CallError, began: float) -> bool:
        """Note that it got no answer; whether it is tried again, then at `not_before`. `began`: when the call began."""
        backend = self.backend
        self.error = error
        backend.note_failure(error)
        if self._retries is None:
            self._retries = RetryPolicy(backend.max_tries, backend.max_wait_s)
        pause_s = self._retries.pause_after(error)
        if error.retry is Retry.SLOW_DOWN:
            backend.limiter.refused(error.after_s)
            # Other calls that are answered meanwhile tell a call that is never taken from an endpoint that takes none.
            began = self._refused_at = self._refused_at or time.monotonic()
            pause_s = None if backend.has_refused_since(began) else pause_s
        elif error.after_s:
            backend.limiter.pause(error.after_s)
        if pause_s is None:
            self.is_lost = backend.is_lost(error, began)
            return False
        self.not_before = time.monotonic() + pause_s
        return True

    @property
    def is_paused_too_long(self) -> bool:
        """Whether its model asked for a longer pause than the run waits; then the call has failed."""
        error = self.backend.long_pause
        if error is None:
            return False
        self.error, self.is_lost = error, True
        return True


class ModelSelector:
    """The models that the steps of one worker ask.

    `by_step`: the models of each step, where not all steps ask the same.
    """

    def __init__(self, backends: Sequence[Backend], by_step: Mapping[str, Sequence[Backend]] | None = None) -> None:
        self.backends = backends
        self._by_step = by_step or {}
        self._limiters = tuple(dict.fromkeys(backend.limiter for backend in backends))
        """Backends that share an engine share its limiter."""
        self._is_weighted = len({backend.weight for backend in backends}) > 1
        self._turn = 0.0
        """The share of the model whose turn it was last."""

    def asked_by(self, step: str) -> Sequence[Backend]:
        """The models that a step asks."""
        return self._by_step.get(step, self.backends)

    async def open(self) -> None:
        """Get the models ready. Raises InfrastructureError."""
        for backend in self.backends:
            await backend.model.open()

    async def close(self) -> None:
        for backend in self.backends:
            await backend.limiter.close()
            await backend.model.close()

    async def enter(self, attempts: Sequence[Attempt]) -> Attempt:
        """Wait until one of them may be sent; its limiter is to be left again. Raises HaltedError.

        Models of different weights wait for their turn, as long as no limit holds them up; others take what they can.
        """
        if len(attempts) == 1 and not attempts[0].not_before:
            await attempts[0].backend.limiter.enter(attempts[0].need)
            return attempts[0]
        while True:
            likely = [one for one in attempts if not one.backend.is_open] or attempts
            now = time.monotonic()
            ready = [one for one in likely if one.not_before <= now]
            if ready:
                return await self._enter_one_of(ready)
            soonest = min(likely, key=lambda one: one.not_before)
            await soonest.backend.limiter.sleep(soonest.not_before - now)

    async def _enter_one_of(self, ready: list[Attempt]) -> Attempt:
        if self._is_weighted:
            next_one = min(ready, key=lambda one: one.backend.share)
            if next_one.backend.limiter.is_free:
                self._turn = max(self._turn, next_one.backend.share)
                next_one.backend.choose(self._turn)
                await next_one.backend.limiter.enter(next_one.need)
                return next_one
        ready.sort(key=lambda one: (one.backend.limiter.in_flight, one.backend.share))
        first = ready[await enter_first([(one.backend.limiter, one.need) for one in ready])]
        first.backend.choose()
        return first

    def give_up(self, attempts: Sequence[Attempt]) -> CallError:
        """The error of a call that no model answered. Raises HaltedError when all further calls will fail alike."""
        if all(one.is_lost for one in attempts):
            raise self.stop(InfrastructureError("; ".join(_reason(one) for one in attempts)))
        last = max(attempts, key=lambda one: not one.is_lost).error
        assert last is not None
        return last

    def stop(self, error: InfrastructureError) -> HaltedError:
        """Send no call any more, since the run cannot go on; those in flight are waited for. Gives what to raise."""
        self.halt(halt_reason(error))
        return HaltedError(self.halted_for)

    def halt(self, reason: str) -> None:
        """Send no call any more."""
        for limiter in self._limiters:
            limiter.halt(reason)

    @property
    def halted_for(self) -> str:
        """Why no call is sent any more; empty while calls are."""
        return next((limiter.halted_for for limiter in self._limiters if limiter.halted_for), "")

    @property
    def waits_for(self) -> str:
        """What keeps calls from leaving; empty when nothing does."""
        first = self.backends[0].limiter.waits_for
        return first if first and all(limiter.waits_for for limiter in self._limiters) else ""

    @property
    def in_flight(self) -> int:
        """Calls in flight, of all models."""
        return sum(limiter.in_flight for limiter in self._limiters)

    def engine_figures(self) -> tuple[EngineFigures, ...]:
        """How the engines are doing that run in this process."""
        by_engine = {backend.limiter: backend.model.figures() for backend in self.backends}
        return tuple(figures for figures in by_engine.values() if figures is not None)


def _reason(one: Attempt) -> str:
    """Why a model answers no calls any more, and from when on it may."""
    error, most = one.error, f"max_wait_s={one.backend.max_wait_s:g}"
    if error is None or (error.retry is not Retry.SLOW_DOWN and not one.backend.asks_too_long(error)):
        return str(error)
    if not one.backend.asks_too_long(error):
        return f"{error}; it has asked to wait again and again, for longer than {most} in all; go on later"
    left_s = error.after_s or 0.0
    until = datetime.now(UTC) + timedelta(seconds=left_s)
    way = "go on then with the same command, or raise max_wait_s"
    return f"{error}; it asks to wait {left_s:,.0f} s, until {until:%Y-%m-%d %H:%M:%S} UTC, longer than {most}: {way}"
