"""Defines what workers and the coordinator send each other: costs, caps, reports and leases.

A report carries what a worker holds and has spent as totals, not as changes: a report or a lease that is lost costs
nothing, since the next report corrects it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from raypipe.contracts.model import EndpointLimits


@dataclass(frozen=True, slots=True)
class Cost:
    """What calls take, or may take at most: their number, tokens, US dollars."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.calls + other.calls,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.usd + other.usd,
        )


NOTHING = Cost()
ONE_CALL = Cost(1)


class Settlement(NamedTuple):
    """What one call took that has ended."""

    cost: Cost
    is_estimated: bool = False
    """What it took is not known: `cost` is the most that it can have taken."""
    is_answered: bool = True


REFUSED = Settlement(ONE_CALL, is_answered=False)
"""A call that nobody worked on."""


class Spent(NamedTuple):
    """What the calls of one step to one model took. Both names are empty where nobody knows them."""

    step: str = ""
    model: str = ""
    calls: int = 0
    unanswered: int = 0
    estimated: int = 0
    """Calls of which no sound count came: they stand at the most that they can have taken."""
    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0
    """Of calls whose price is known."""
    estimated_usd: float = 0.0
    """Of `usd`, what estimated calls come to."""

    @property
    def cost(self) -> Cost:
        return Cost(self.calls, self.input_tokens, self.output_tokens, self.usd)


class Total:
    """A sum of costs that change with each call: no new `Cost` is made until one is asked for."""

    __slots__ = ("_calls", "_count", "_input", "_output", "_usd")

    def __init__(self) -> None:
        self._count = self._calls = self._input = self._output = 0
        self._usd = 0.0

    def add(self, cost: Cost) -> None:
        self._count += 1
        self._calls += cost.calls
        self._input += cost.input_tokens
        self._output += cost.output_tokens
        self._usd += cost.usd

    def remove(self, cost: Cost) -> None:
        """Take away a cost that was added; without any the sum is exactly nothing, whatever floats add up to."""
        self._count -= 1
        self._calls -= cost.calls
        self._input -= cost.input_tokens
        self._output -= cost.output_tokens
        self._usd = self._usd - cost.usd if self._count else 0.0

    @property
    def cost(self) -> Cost:
        return Cost(self._calls, self._input, self._output, self._usd)


@dataclass(frozen=True, slots=True)
class Caps:
    """The most that a run may spend; `None` where there is no cap."""

    calls: int | None = None
    tokens: int | None = None
    usd: float | None = None

    def __bool__(self) -> bool:
        return (self.calls, self.tokens, self.usd) != (None, None, None)


@dataclass(frozen=True, slots=True)
class Report:
    """What one worker reports to the coordinator. Numbers are of the time since its last report, or say otherwise."""

    client: str
    life: str
    """Differs when the worker was replaced: what its predecessor had reserved counts as spent."""
    limits: EndpointLimits
    number: int = 0
    """Reports of one life are numbered: an older one that comes late is ignored."""
    is_last: bool = False
    """The worker ends: it holds nothing from now on."""
    held: Cost = NOTHING
    """The most that the calls in flight now can take."""
    accounts: tuple[Spent, ...] = ()
    """What all ended calls of this life took, by step and model."""
    needs: tuple[Cost, ...] = ()
    """The most that each waiting call can take."""
    sent: int = 0
    """Calls sent without a permit."""
    ended: Cost = NOTHING
    """What was reserved for calls that have ended."""
    spent: Cost = NOTHING
    """What those calls really took."""
    refused: int = 0
    """Calls that were answered with a request to slow down."""
    pause_s: float = 0.0
    """The longest pause that was asked for."""
    succeeded: int = 0
    in_flight: int = 0
    slots: int = 0
    """The most calls this worker would have in flight."""


@dataclass(frozen=True, slots=True)
class Lease:
    """What a worker may do until its next report."""

    granted: int = 0
    """How many of the waiting calls in the report may be sent, the first ones first."""
    is_free: bool = False
    """Calls may be sent without a permit."""
    window: int | None = None
    """The most calls the worker may have in flight."""
    pause_s: float = 0.0
    again_s: float = 0.25
    """When to report again, at the latest."""
    waits_for: str = ""
    """What keeps calls from leaving, where it is not the endpoint."""
    exhausted: str = ""
    """Why no call will ever be granted again."""
