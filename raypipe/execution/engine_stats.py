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
    prefix_hit_rate: float = 0.0
    """Share of the prompts' tokens that were found in the prefix cache."""
    _before: tuple[int, int, int] = (0, 0, 0)
    """What those that it took the place of had counted: tokens, and tokens looked for and found in the cache."""
    _last: tuple[int, int, int] = (0, 0, 0)

    def note(self, figures: EngineFigures, tokens: int, now: float) -> None:
        """Take in the figures of its engine, and the tokens that were written, at `now` seconds of any clock."""
        last, lost = self._last, self._before
        if tokens < last[0] or figures.prefix_queries < last[1]:
            self._before = lost = (lost[0] + last[0], lost[1] + last[1], lost[2] + last[2])
        if tokens != last[0]:
            self.began, self.ended = self.began or now, now
        self._last, self.now = (tokens, figures.prefix_queries, figures.prefix_hits), figures
        self.most_running = max(self.most_running, figures.most_running)
        self.most_kv_cache = max(self.most_kv_cache, figures.most_kv_cache_usage)
        self.tokens = lost[0] + tokens
        queries, hits = lost[1] + figures.prefix_queries, lost[2] + figures.prefix_hits
        self.prefix_hit_rate = hits / queries if queries else 0.0

    @property
    def tokens_per_s(self) -> float:
        """Tokens written in a second, from the first answer to the last."""
        return self.tokens / (self.ended - self.began) if self.ended > self.began else 0.0


@dataclass
class EngineStats:
    """The engines of a run. `watch` is called with what the conductors see, after that is noted here."""

    clock: Callable[[], float] = time.monotonic
    watch: Callable[[Sequence[Snapshot]], None] | None = None
    reports: dict[str, EngineReport] = field(default_factory=dict[str, EngineReport], init=False)
    """By the names of their workers."""

    def take(self, snapshots: Sequence[Snapshot]) -> None:
        """Note what the conductors see now."""
        latest: dict[str, WorkerStatus] = {}
        for snapshot in snapshots:
            for worker, status in snapshot.workers.items():
                if status.engines and status.output_tokens >= latest.get(worker, status).output_tokens:
                    latest[worker] = status
        for worker, status in latest.items():
            report = self.reports.setdefault(worker, EngineReport(status.pool))
            report.note(status.engines[0], status.output_tokens, self.clock())
        if self.watch is not None:
            self.watch(snapshots)

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
