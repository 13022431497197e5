"""Keeps the figures that the engines of a run report, by worker. Knows nothing of who shows them.

A worker that is lost is followed by one of the same name, whose counts begin again: what the lost one had counted
stays.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from raypipe.contracts.model import EngineFigures
from raypipe.execution.conductor.conductor import Snapshot
from raypipe.execution.wire import WorkerStatus


@dataclass
class EngineReport:
    """What one worker's engine did so far."""

    pool: str = ""
    now: EngineFigures = field(default_factory=EngineFigures)
    began: float = 0.0
    ended: float = 0.0
    most_running: int = 0
    most_kv_cache: float = 0.0
    tokens: int = 0
    """Tokens written by this worker and those it took the place of."""
    _before: tuple[int, int, int] = (0, 0, 0)
    _last: tuple[int, int, int] = (0, 0, 0)

    def note(self, figures: EngineFigures, tokens: int, now: float) -> None:
        counted = (tokens, figures.prefix_queries, figures.prefix_hits)
        if counted[0] < self._last[0] or counted[1] < self._last[1]:
            self._before = _sum(self._before, self._last)
        if tokens != self._last[0]:
            self.began, self.ended = self.began or now, now
        self._last, self.now = counted, figures
        self.most_running = max(self.most_running, figures.most_running)
        self.most_kv_cache = max(self.most_kv_cache, figures.most_kv_cache_usage)
        self.tokens = _sum(self._before, counted)[0]

    @property
    def tokens_per_s(self) -> float:
        """Tokens written in a second, from the first answer to the last."""
        return self.tokens / (self.ended - self.began) if self.ended > self.began else 0.0

    @property
    def prefix_hit_rate(self) -> float:
        """Share of the prompts' tokens that were found in the prefix cache."""
        _, queries, hits = _sum(self._before, self._last)
        return hits / queries if queries else 0.0


def _sum(one: tuple[int, int, int], other: tuple[int, int, int]) -> tuple[int, int, int]:
    return one[0] + other[0], one[1] + other[1], one[2] + other[2]


class EngineStats:
    """The engines of a run, by the names of their workers."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self.reports: dict[str, EngineReport] = {}

    def take(self, snapshots: Sequence[Snapshot]) -> None:
        """Note what the conductors see now."""
        latest: dict[str, WorkerStatus] = {}
        for snapshot in snapshots:
            for worker, status in snapshot.workers.items():
                if status.engines and status.output_tokens >= latest.get(worker, status).output_tokens:
                    latest[worker] = status
        for worker, status in latest.items():
            report = self.reports.setdefault(worker, EngineReport(status.pool))
            report.note(status.engines[0], status.output_tokens, self._clock())

    def beside(self, watch: Callable[[Sequence[Snapshot]], None]) -> Callable[[Sequence[Snapshot]], None]:
        """Call `watch` with what conductors see, after noting it here."""

        def both(snapshots: Sequence[Snapshot]) -> None:
            self.take(snapshots)
            watch(snapshots)

        return both

    def describe(self, models: dict[str, dict[str, Any]]) -> None:
        """Add to the manifest's figures of each pool what its engines did."""
        for pool, figures in models.items():
            engines = {
                worker: {
                    "output_tokens": report.tokens,
                    "tokens_per_s": round(report.tokens_per_s, 1),
                    "most_running": report.most_running,
                    "most_kv_cache_usage": round(report.most_kv_cache, 4),
                    "prefix_hit_rate": round(report.prefix_hit_rate, 4),
                    "load_s": round(report.now.load_s, 1),
                }
                for worker, report in sorted(self.reports.items())
                if report.pool == pool
            }
            if engines:
                figures["engines"] = engines
