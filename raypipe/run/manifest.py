"""Describes a run that has ended: what its steps and models did, sent and spent. Writes nothing."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from raypipe.contracts.model_pool import ModelPool, name_members
from raypipe.execution.context import RunContext
from raypipe.execution.counts import StepCounts, sum_by_shown_step
from raypipe.execution.setup import Outcome
from raypipe.models.prices import known_cost_usd, member_costs_usd, sum_usd
from raypipe.plan.plan import Plan, Pool, Sink

_OLD_NAMES = {"calls_sent": "sent", "calls_cached": "cached", "calls_unanswered": "tries"}
"""How manifests name the calls of each model under `steps`."""


def describe_run(plan: Plan, outcome: Outcome, run: RunContext, started: float) -> dict[str, Any]:
    """The manifest, without what is committed: rows of leaves and failures. `started`: seconds since the epoch."""
    totals, options = _totals(plan, outcome), run.options
    costs = {
        name: known_cost_usd(llm, counts.cost_usd, counts.by_model)
        for name, counts in totals.items()
        if (llm := plan.graph.steps[name].llm) is not None
    }
    shown = sum_by_shown_step(plan.graph, totals, is_over=True)
    ended = time.time()
    return {
        "raypipe": _version("raypipe"),
        "pipeline": plan.name,
        "engine": options.engine,
        "identity": run.identity,
        "started_at": started,
        "ended_at": ended,
        "wall_s": round(ended - started, 3),
        "max_failed_rows": options.max_failed_rows,
        "max_failure_rate": options.max_failure_rate,
        "origin": options.origin,
        "stopped": outcome.halted_for or None,
        "steps": {name: _describe_step(plan, name, counts, costs.get(name)) for name, counts in shown.items()},
        "models": {
            pool.name: _describe_model(plan, pool, totals, costs)
            for pool in plan.pools.values()
            if pool.llm is not None
        },
        "leaves": {},
        "failures": {"rows": 0, "path": "failures"},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in ("ray", "pyarrow")},
    }


def _totals(plan: Plan, outcome: Outcome) -> dict[str, StepCounts]:
    """What each step did, over all batches."""
    totals = {name: StepCounts() for name in plan.graph.order}
    for result in outcome.results:
        for name, counts in result.counts.items():
            totals[name].add(counts)
    for stage in plan.stages:
        if stage.reads_stage is not None:
            sink = Sink("barrier", stage.entry)
            taken = sum(part.rows for result in outcome.results for part in result.parts if part.sink == sink)
            totals[stage.entry].rows_in = totals[stage.entry].rows_done = taken
    return totals


def _describe_step(plan: Plan, name: str, counts: StepCounts, cost: float | None) -> dict[str, Any]:
    llm, figures = plan.graph.steps[name].llm, asdict(counts)
    del figures["by_model"]
    if counts.by_model:
        figures["by_model"] = {
            model: {_OLD_NAMES.get(what, what): number for what, number in did.items()}
            for model, did in counts.by_model.items()
        }
    return figures | {"model": llm.label if llm else None, "cost_usd": cost}


def _describe_model(
    plan: Plan, pool: Pool, totals: Mapping[str, StepCounts], costs: Mapping[str, float | None]
) -> dict[str, Any]:
    """Calls, tokens and money of the steps that ask one pool's models."""
    steps = [name for name in totals if plan.graph.steps[name].llm in pool.llms]
    mine = StepCounts()
    for name in steps:
        mine.add(totals[name])
    described: dict[str, Any] = {
        "calls_sent": mine.calls_sent,
        "calls_cached": mine.calls_cached,
        "calls_unanswered": mine.calls_unanswered,
        "calls_estimated": mine.calls_estimated,
        "calls_refused": mine.calls_refused,
        "input_tokens": mine.input_tokens,
        "output_tokens": mine.output_tokens,
        "cost_usd": sum_usd([costs[name] for name in steps]),
        "estimated_usd": mine.estimated_usd,
    }
    if isinstance(pool.llm, ModelPool):
        described["members"] = _describe_members(pool.llm, mine)
    return described


def _describe_members(llm: ModelPool, counts: StepCounts) -> dict[str, Any]:
    """For each member of a pool: calls and tokens, its share of all answers, and calls that another answered for it."""
    answers = max(1, counts.calls_sent - counts.calls_unanswered + counts.calls_cached)
    costs = member_costs_usd(llm, counts.by_model)
    found: dict[str, Any] = {}
    for name in name_members(llm):
        did = counts.by_model.get(name, {})
        sent, cached, unanswered = (int(did.get(what, 0)) for what in _OLD_NAMES)
        found[name] = {
            "calls_sent": sent,
            "calls_cached": cached,
            "calls_unanswered": unanswered,
            "calls_estimated": did.get("calls_estimated", 0),
            "calls_refused": did.get("calls_refused", 0),
            "failovers": did.get("failovers", 0),
            "share": round((sent - unanswered + cached) / answers, 4),
            "input_tokens": did.get("input_tokens", 0),
            "output_tokens": did.get("output_tokens", 0),
            "cost_usd": costs[name],
            "estimated_usd": did.get("estimated_usd", 0.0),
        }
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
