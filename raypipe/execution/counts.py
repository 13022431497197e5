"""Counts calls, tokens and rows: of one row, of a worker, of a step, and of each model of a pool.

Each number has one name, from the worker that counts it to the manifest. Knows nothing of who calls or why.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Protocol

from raypipe.graph.callback import Collected
from raypipe.graph.graph import Graph
from raypipe.limits import Settlement


class Countable(Protocol):
    """A model whose calls are counted."""

    name: str
    is_one_of_several: bool


@dataclass(slots=True)
class CallCounts:
    """Calls and tokens of one row, or of all rows of a worker."""

    calls_sent: int = 0
    calls_cached: int = 0
    """Calls answered from the call log."""
    calls_unanswered: int = 0
    """Of those sent, the ones that got no answer."""
    calls_estimated: int = 0
    """Of those sent, the ones of which no sound count came: their tokens and cost are the most that they can be."""
    calls_refused: int = 0
    """Calls, sent or answered from the call log, whose answer is that the model refuses or its filter stopped it."""
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0
    """Of all calls whose price is known."""
    estimated_usd: float = 0.0
    """Of `cost_usd`, what estimated calls come to."""
    by_model: dict[str, dict[str, float]] = field(default_factory=dict[str, dict[str, float]])
    """Calls, tokens and failovers of each model of a pool of models, by its name; empty for one model."""

    def count_sent(self, model: Countable) -> None:
        """One more call was sent."""
        self.calls_sent += 1
        if model.is_one_of_several:
            self.count_for(model, "calls_sent")

    def count_cached(self, model: Countable) -> None:
        """One more call was answered from the call log."""
        self.calls_cached += 1
        if model.is_one_of_several:
            self.count_for(model, "calls_cached")

    def count_unanswered(self, model: Countable) -> None:
        """One of the calls that were sent got no answer."""
        self.calls_unanswered += 1
        if model.is_one_of_several:
            self.count_for(model, "calls_unanswered")

    def count_refused(self, model: Countable) -> None:
        self.calls_refused += 1
        if model.is_one_of_several:
            self.count_for(model, "calls_refused")

    def count_settled(self, model: Countable, settlement: Settlement) -> None:
        """A call that was sent has ended, and took so much."""
        cost = settlement.cost
        self.input_tokens += cost.input_tokens
        self.output_tokens += cost.output_tokens
        self.cost_usd += cost.usd
        if settlement.is_estimated:
            self.calls_estimated += 1
            self.estimated_usd += cost.usd
        if model.is_one_of_several and (cost.tokens or settlement.is_estimated):
            self.count_for(model, "input_tokens", cost.input_tokens)
            self.count_for(model, "output_tokens", cost.output_tokens)
            self.count_for(model, "cost_usd", cost.usd)
            if settlement.is_estimated:
                self.count_for(model, "calls_estimated")
                self.count_for(model, "estimated_usd", cost.usd)

    def count_for(self, model: Countable, name: str, amount: float = 1) -> None:
        """Count for one model of a pool only."""
        counts = self.by_model.setdefault(model.name, {})
        counts[name] = counts.get(name, 0) + amount


@dataclass(slots=True)
class StepCounts(CallCounts):
    """What one step did. rows_in = rows_done + rows_failed + rows_filtered + rows_unfinished; rows_out leave it."""

    rows_in: int = 0
    rows_done: int = 0
    rows_failed: int = 0
    rows_filtered: int = 0
    rows_unfinished: int = 0
    """Left as they were, since the run was stopped."""
    rows_out: int = 0

    def add(self, other: StepCounts) -> None:
        """Add every number of `other`, also those by model; numbers of it that are negative take some away."""
        for name in _NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        add_by_model(self.by_model, other.by_model)


_NUMBERS = tuple(item.name for item in fields(StepCounts) if item.type in ("int", "float"))


def add_by_model(counts: dict[str, dict[str, float]], more: Mapping[str, Mapping[str, float]]) -> None:
    """Add to `counts`, which are by model and name, those of `more`."""
    for model, numbers in more.items():
        mine = counts.setdefault(model, {})
        for name, number in numbers.items():
            mine[name] = mine.get(name, 0) + number


def sum_by_shown_step(
    graph: Graph, counted: Mapping[str, StepCounts], *, is_over: bool = False
) -> dict[str, StepCounts]:
    """Counts by step as a user sees it; rows_in = rows_done + rows_failed + rows_filtered + rows_unfinished in each.

    What was put in before a step is part of it: rows that its `when` lets go are filtered there, rows that fail on the
    way into it have failed there. `is_over`: no row moves any more, so those that were collected for a step and that
    it was not given are unfinished.
    """
    shown: dict[str, StepCounts] = {}
    for title, (*before, name) in graph.parts.items():
        made = shown[title] = StepCounts()
        made.add(counted[name])
        for one in before:
            for lost in ("rows_failed", "rows_filtered", "rows_unfinished"):
                count = getattr(counted[one], lost)
                setattr(made, lost, getattr(made, lost) + count)
                made.rows_in += count
            if is_over and isinstance(graph.steps[one], Collected):
                left = max(0, counted[one].rows_in - counted[name].rows_in)
                made.rows_unfinished += left
                made.rows_in += left
    return shown
