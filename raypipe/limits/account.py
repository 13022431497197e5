"""Adds up what ended calls took, by step and model. Knows nothing of caps, nor of where an account is kept."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from raypipe.limits.messages import NOTHING, Cost, Settlement, Spent


class Account:
    """Sums of `Spent` that change with each call."""

    __slots__ = ("_sums",)

    def __init__(self, entries: Iterable[Spent] = ()) -> None:
        self._sums: dict[tuple[str, str], list[Any]] = {}
        for entry in entries:
            self.add(entry)

    def settle(self, step: str, model: str, settlement: Settlement) -> None:
        """A call has ended."""
        sums = self._sums.get((step, model))
        if sums is None:
            sums = self._sums[step, model] = [0, 0, 0, 0, 0, 0.0, 0.0]
        cost = settlement.cost
        sums[0] += cost.calls
        sums[3] += cost.input_tokens
        sums[4] += cost.output_tokens
        sums[5] += cost.usd
        if not settlement.is_answered:
            sums[1] += cost.calls
        if settlement.is_estimated:
            sums[2] += cost.calls
            sums[6] += cost.usd

    def add(self, entry: Spent) -> None:
        step, model, *numbers = entry
        sums = self._sums.get((step, model))
        self._sums[step, model] = numbers if sums is None else [a + b for a, b in zip(sums, numbers, strict=True)]

    @property
    def entries(self) -> tuple[Spent, ...]:
        """A `Spent` for each step and model."""
        return tuple(Spent(*names, *sums) for names, sums in self._sums.items())

    @property
    def cost(self) -> Cost:
        """What all of them took."""
        return sum_costs(self.entries)


def sum_costs(entries: Iterable[Spent]) -> Cost:
    """What all of them took."""
    return sum((entry.cost for entry in entries), NOTHING)


def estimate(cost: Cost) -> Spent:
    """What calls took of which nothing is known but that they took no more."""
    calls = cost.calls
    return Spent("", "", calls, calls, calls, cost.input_tokens, cost.output_tokens, cost.usd, cost.usd)
