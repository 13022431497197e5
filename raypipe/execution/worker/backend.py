"""Knows how one model is doing: its limits, its failures, and whether calls should go there.

A circuit breaker stands before each model. After several failures in a row it opens, for longer each time, and no call
goes there while another model is there to ask; then single calls go there until one is answered. Sends no call.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from raypipe.contracts.model import Model
from raypipe.contracts.model_pool import ModelOrPool, ModelPool, name_members
from raypipe.errors import CallError, Retry
from raypipe.execution.worker.call_costs import CallCosts
from raypipe.limits import LONGEST_WAIT_S, Caps, LeaseSource, Limiter
from raypipe.models import open_model
from raypipe.models.call_identity import fields_left_out, model_identity

_LASTING_KINDS = frozenset({"auth", "not_found", "quota"})
"""Kinds of errors that every other row would meet, too."""
_FAILURES_TO_OPEN = 3
_SHORTEST_OPEN_S, _LONGEST_OPEN_S = 5.0, 300.0


@dataclass(eq=False)
class Backend:
    """One model that calls may go to, and how it is doing."""

    name: str
    """Tells it from the other models of a pool."""
    label: str
    identity: str
    """What identifies the model in its calls."""
    fields_left_out: frozenset[str]
    """Fields of a request that do not identify a call."""
    model: Model
    limiter: Limiter
    max_tries: int
    costs: CallCosts
    max_wait_s: float = LONGEST_WAIT_S
    hedge_after_s: float | None = None
    weight: float = 1.0
    is_one_of_several: bool = False
    share: float = 0.0
    """Calls that it was given for its weight; at least as many as the others had when its turn last came."""
    _lasting_failures: int = 0
    _last_success: float = float("-inf")
    _failures: int = 0
    """Calls in a row that got no answer, for a reason that lies with the model."""
    _times_opened: int = 0
    """How often the circuit breaker has opened since the last answer."""
    _open_until: float = float("-inf")
    _long_pause: str = ""
    """The error that asked for a longer pause than the run waits."""

    def choose(self, least: float = 0.0) -> None:
        """Count a call that it is given. It does not catch up on calls that it missed while its circuit was open: its
        share is at least `least`."""
        self.share = max(self.share, least) + 1 / self.weight

    def note_success(self) -> None:
        """A call was answered: the circuit closes."""
        self._lasting_failures = self._failures = self._times_opened = 0
        self._last_success = time.monotonic()

    def note_failure(self, error: CallError) -> None:
        """A call got no answer: after several in a row the circuit opens."""
        if error.retry is Retry.SLOW_DOWN or (error.retry is Retry.NEVER and error.kind not in _LASTING_KINDS):
            return
        self._failures += 1
        if self._failures >= _FAILURES_TO_OPEN and not self.is_open:
            open_s = min(_SHORTEST_OPEN_S * 2**self._times_opened, _LONGEST_OPEN_S)
            self._open_until = time.monotonic() + open_s
            self._times_opened += 1

    @property
    def is_open(self) -> bool:
        """Whether the circuit is open, so that no call should go there. Half open, one call at a time may."""
        return time.monotonic() < self._open_until or bool(self._times_opened and self.limiter.in_flight)

    def asks_too_long(self, error: CallError) -> bool:
        """Whether the error asks for a longer pause than the run waits."""
        return (error.after_s or 0.0) > self.max_wait_s

    def has_refused_since(self, moment: float) -> bool:
        """Whether nothing has been answered since then, for longer than the run waits."""
        return self._last_success < moment < time.monotonic() - self.max_wait_s

    @property
    def long_pause(self) -> CallError | None:
        """The error of a call during a pause that is longer than the run waits; `None` outside of one."""
        left_s = self.limiter.pause_s
        if not left_s or left_s <= self.max_wait_s:
            return None
        problem = self._long_pause or f"model {self.label!r} has asked another worker to wait"
        return CallError(problem, "rate_limit", Retry.SLOW_DOWN, left_s)

    def is_lost(self, error: CallError, began: float) -> bool:
        """Whether the error of a call that was given up means that all further calls will fail alike.

        `began`: when the call began, since when nothing was answered.
        """
        if self.asks_too_long(error):
            self._long_pause = str(error)
            return True
        if error.kind == "unreachable" or error.retry is Retry.SLOW_DOWN:
            return self._last_success < began
        self._lasting_failures += error.kind in _LASTING_KINDS
        return error.kind in _LASTING_KINDS and self._lasting_failures >= _FAILURES_TO_OPEN


def make_backends(
    llm: ModelOrPool, worker: str, replicas: int, coordinator: LeaseSource, caps: Caps, beside: Backend | None = None
) -> list[Backend]:
    """The models of a pool of models, or the one model, as one of `replicas` workers asks them.

    `beside`: a backend whose engine, and whose limiter, they share.
    """
    found: list[Backend] = []
    for name, one in name_members(llm).items():
        model, costs = open_model(one, beside and beside.model), CallCosts(one, caps)
        client = f"{worker} {name}" if isinstance(llm, ModelPool) else worker
        if beside is None:
            limiter = Limiter(client, one.in_flight(replicas), coordinator, model.endpoint_limits)
        else:
            limiter = beside.limiter
        found.append(
            Backend(
                name=name,
                label=one.label,
                identity=model_identity(one),
                fields_left_out=fields_left_out(one),
                model=model,
                limiter=limiter,
                max_tries=one.max_tries,
                max_wait_s=one.max_wait_s,
                costs=costs,
                hedge_after_s=one.hedge_after_s,
                weight=one.weight,
                is_one_of_several=isinstance(llm, ModelPool),
            )
        )
    return found
