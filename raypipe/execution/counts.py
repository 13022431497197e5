"""Counts calls and tokens: of one row, of a worker, of each model of a pool. Knows nothing of who calls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from raypipe.contracts.llm import Usage


class Countable(Protocol):
    """A model whose calls are counted."""

    name: str
    is_one_of_several: bool


@dataclass(slots=True)
class CallCounts:
    """Calls and tokens, counted."""

    sent: int = 0
    cached: int = 0
    tries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    by_model: dict[str, dict[str, int]] = field(default_factory=lambda: {})
    """What each member of a pool of models did, by its name; empty for one model."""

    def count(self, member: Countable, what: str, amount: int = 1) -> None:
        setattr(self, what, getattr(self, what) + amount)
        if member.is_one_of_several:
            self.of(member, what, amount)

    def count_cached(self, member: Countable) -> None:
        self.cached += 1
        if member.is_one_of_several:
            self.of(member, "cached")

    def count_sent(self, member: Countable) -> None:
        self.sent += 1
        if member.is_one_of_several:
            self.of(member, "sent")

    def count_tokens(self, member: Countable, usage: Usage) -> None:
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        if member.is_one_of_several:
            self.of(member, "input_tokens", usage.input_tokens)
            self.of(member, "output_tokens", usage.output_tokens)

    def of(self, member: Countable, what: str, amount: int = 1) -> None:
        """Count for one member only."""
        counts = self.by_model.setdefault(member.name, {})
        counts[what] = counts.get(what, 0) + amount


def add_counts(counts: dict[str, dict[str, int]], more: Mapping[str, Mapping[str, int]]) -> None:
    """Add what is counted by name."""
    for name, numbers in more.items():
        mine = counts.setdefault(name, {})
        for what, number in numbers.items():
            mine[what] = mine.get(what, 0) + number
