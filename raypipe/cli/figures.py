"""Adds up what the conductors of a run see, and estimates what is left.

Knows nothing of how it is shown. A conductor sees one stage and a worker is seen by many conductors: what was known
of a step stays when its stage has ended, and each worker counts once.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from raypipe.cli.layout import duration, number
from raypipe.contracts.step import Runs, Shape
from raypipe.execution.conductor.conductor import Snapshot
from raypipe.execution.counts import StepCounts, sum_by_shown_step
from raypipe.execution.engine_stats import EngineStats
from raypipe.execution.wire import WorkerStatus
from raypipe.graph.repeat import Until
from raypipe.models.prices import known_cost_usd
from raypipe.plan.plan import Plan

_QUIET_S = 10.0
_WINDOW_S = 20.0
"""Rates are those of the last so many seconds."""


@dataclass(frozen=True)
class StepFigures:
    """What is known of one step."""

    name: str
    counts: StepCounts
    waiting: int
    """Rows that no worker has taken yet."""
    in_flight: int
    """Calls of all steps that share this one's workers."""
    slots: int
    """Most calls in flight there; 0 for a step without a model."""
    tokens_per_s: float
    """Tokens written in a second, lately."""
    cost_usd: float | None


class Figures:
    """The latest figures of a run. `source_rows` are the rows of each source, where they are known."""

    def __init__(
        self, plan: Plan, source_rows: Mapping[str, int] | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._plan = plan
        self._source_rows = source_rows or {}
        self._clock = clock
        self._began = self._moved_at = clock()
        self._pools = {step.name: step.pool for stage in plan.stages for step in stage.steps.values()}
        self._entries = {stage.entry for stage in plan.stages}
        self._counts = {name: StepCounts() for name in plan.graph.order}
        self._waiting: dict[str, int] = {}
        self._workers: dict[str, WorkerStatus] = {}
        self.engines = EngineStats(clock)
        """What the engines do that run in workers."""
        self._history: deque[tuple[float, dict[str, StepCounts]]] = deque()
        self.is_asked = False
        """Whether the executor is up and has said anything, be it nothing."""
        self.is_working = False
        """Whether a conductor is at work."""

    def take(self, snapshots: Sequence[Snapshot]) -> None:
        """Note what the conductors see now."""
        self.is_asked = True
        self.is_working = self.is_working or bool(snapshots)
        totals: dict[str, StepCounts] = {}
        waiting: dict[str, int] = {}
        for snapshot in snapshots:
            for name, counts in snapshot.counts.items():
                totals.setdefault(name, StepCounts()).add(counts)
            for name, queued in snapshot.queued.items():
                waiting[name] = waiting.get(name, 0) + queued
            for worker, status in snapshot.workers.items():
                known = self._workers.get(worker, status)
                self._workers[worker] = max(status, known, key=lambda one: one.calls_sent + one.calls_cached)
        self.engines.take(snapshots)
        now = self._clock()
        if any(self._counts[name] != counts for name, counts in totals.items()):
            self._moved_at = now
        self._counts, self._waiting = self._counts | totals, waiting
        self._history.append((now, self._counts))
        while len(self._history) > 2 and self._history[0][0] < now - _WINDOW_S:
            self._history.popleft()

    @property
    def elapsed_s(self) -> float:
        return self._clock() - self._began

    def steps(self) -> list[StepFigures]:
        """All steps, each after those it follows."""
        shown = sum_by_shown_step(self._plan.graph, self._counts)
        return [self._step(name, counts) for name, counts in shown.items()]

    def _step(self, name: str, counts: StepCounts) -> StepFigures:
        llm, pool = self._plan.graph.steps[name].llm, self._pools[name]
        waiting = sum(self._waiting.get(part, 0) for part in self._plan.graph.parts[name])
        if llm is None or pool is None:
            return StepFigures(name, counts, waiting, 0, 0, 0.0, None)
        cost = known_cost_usd(llm, counts.cost_usd, counts.by_model)
        workers = self._plan.pools[pool]
        slots = workers.most * workers.concurrency
        rate = self._rate(lambda past: past[name].output_tokens)
        return StepFigures(name, counts, waiting, self.in_flight(pool), slots, rate, cost)

    def in_flight(self, pool: str | None = None) -> int:
        """Calls that the workers of a pool, or of all pools with a model, wait for."""
        pools = [pool] if pool else [name for name, one in self._plan.pools.items() if one.llm is not None]
        return sum(status.in_flight for status in self._workers.values() if status.pool in pools)

    @property
    def halted_for(self) -> str:
        """Why no call is sent any more; empty while calls are."""
        return next((status.halted_for for status in self._workers.values() if status.halted_for), "")

    def waits_for(self) -> str:
        """What keeps the run from moving, once no row has ended for a while; empty while it moves."""
        now = self._clock()
        if now - self._moved_at < _QUIET_S or not self.is_working:
            return ""
        if not self._workers:
            return "workers that start"
        waits = sorted({status.waits_for for status in self._workers.values() if status.waits_for})
        if waits:
            return " and ".join(waits)
        asked, held = self.in_flight(), sum(status.held for status in self._workers.values())
        if asked or held:
            slowest = max(self._workers.values(), key=lambda status: status.oldest_s)
            awaited = f"{number(asked)} answers of" if asked else f"{number(held)} rows in"
            where = f" in step {slowest.oldest_step!r}" if slowest.oldest_step else ""
            return f"{awaited} {slowest.pool}, the oldest for {duration(slowest.oldest_s)}{where}"
        return "rows from upstream" if not any(self._waiting.values()) else "workers that take rows"

    def _rate(self, value: Callable[[Mapping[str, StepCounts]], int]) -> float:
        """How much `value` grows in a second."""
        if len(self._history) < 2:
            return 0.0
        (then, past), (now, present) = self._history[0], self._history[-1]
        return (value(present) - value(past)) / (now - then) if now > then else 0.0

    # What is left.

    def remaining_s(self) -> float | None:
        """Time to the end at the present rate; `None` while that cannot be said."""
        expected = self._expected_rows()
        longest = 0.0
        for pool in self._plan.pools:
            steps = [name for name, own in self._pools.items() if own == pool]
            if any(name not in expected for name in steps):
                return None
            left = sum(max(0.0, expected[name] - self._counts[name].rows_in) for name in steps)
            rate = self._rate(lambda past, steps=steps: sum(past[name].rows_in for name in steps))
            if left and not rate:
                return None
            longest = max(longest, left / rate if left else 0.0)
        return longest

    def _expected_rows(self) -> dict[str, float]:
        """For each step, how many rows will have entered it; a step of which that cannot be known is missing."""
        graph = self._plan.graph
        into: dict[str, float] = {}
        out: dict[str, float] = {}
        for name in graph.order:
            above = graph.predecessors[name]
            if not above and name in self._source_rows:
                into[name] = out[name] = self._source_rows[name]
            elif above and above[0] in out:
                into[name] = out[above[0]]
                made = self._expected_out(name, into)
                out |= {} if made is None else {name: made}
        return into

    def _expected_out(self, name: str, into: Mapping[str, float]) -> float | None:
        step, counts, graph = self._plan.graph.steps[name], self._counts[name], self._plan.graph
        if step.runs is Runs.GATHER and not isinstance(step, Until):
            closes = None if name in self._entries else graph.opener(name)
            return into.get(closes) if closes else None
        if counts.rows_in:
            return into[name] * counts.rows_out / counts.rows_in
        return into[name] * step.copies if step.shape is Shape.MAP else None
