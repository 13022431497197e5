"""I run a graph once: open the run folder, choose the executor, commit outputs, write the manifest."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from raypipe.calls.index import load_index
from raypipe.calls.remote import compact, forget
from raypipe.contracts.model_pool import ModelOrPool, ModelPool, members_of, name_members
from raypipe.errors import OutputError, SpecError, StepFailedError, StoppedError, Violation, stop_error
from raypipe.execution import local
from raypipe.execution.conductor.conductor import Snapshot
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.counts import StepCounts
from raypipe.execution.engine_stats import EngineStats
from raypipe.execution.setup import Outcome, RunSetup, Watch
from raypipe.execution.step_counts import sum_by_shown_step
from raypipe.execution.stopping import ASKED, Phase, Stop
from raypipe.limits import Caps, Cost
from raypipe.models import check_model, check_request, is_held_key, missing_engine
from raypipe.models.prices import cost_usd, pool_cost_usd
from raypipe.plan.load_groups import in_groups
from raypipe.plan.plan import Plan, Sink
from raypipe.results import Result
from raypipe.run.commit import Commit
from raypipe.run.spending_history import Spending
from raypipe.security.file_modes import are_files_shared, owner_only, restrict_folder
from raypipe.storage.paths import AnyPath, check_reachable, explain_os_error
from raypipe.storage.remote_run_folder import AnyRunFolder, run_folder_at


def run_plan(
    plan: Plan, spec: bytes, options: RunOptions, watch: Watch | None = None, stop: Stop | None = None
) -> Result:
    """Run, commit and describe. `spec` is the pipeline as YAML; `stop` may be asked by any thread, beside the signals.

    Raises SpecError, InputError, OutputError, StoppedError or InfrastructureError; whatever was
    completed by then is in the call log, and the same run resumes from there.
    """
    plan = in_groups(plan, options.load_groups)
    check_models(plan)
    _check_engines(plan, options)
    check_caps(plan, options.caps)
    _check_keys(plan, options)
    folder = run_folder_at(options.out)
    stop = stop or Stop()

    def work() -> Result:
        with _held(folder, stop, options.is_shared):
            return _run(plan, options, watch or _look_away, stop, Commit(folder, plan, spec, options.bounds))

    return stop.supervise(work)


def retry_plan(
    plan: Plan,
    spec: bytes,
    options: RunOptions,
    kinds: Collection[str] = (),
    watch: Watch | None = None,
    stop: Stop | None = None,
) -> Result:
    """Run the source rows again that failures came from, all or those of certain kinds, and merge what comes out.

    Where a later stage groups rows, all are run again. Raises as `run_plan`; nothing is changed then.
    """
    check_models(plan)
    _check_engines(plan, options)
    check_caps(plan, options.caps)
    folder = run_folder_at(options.out)
    stop = stop or Stop()

    def work() -> Result:
        with _held(folder, stop, options.is_shared):
            rows = Result(folder.path).failed_sources(kinds)
            if not rows:
                return Result(folder.path)
            if len(plan.stages) > 1:
                return _run(plan, options, watch or _look_away, stop, Commit(folder, plan, spec, options.bounds))
            commit = Commit(folder, plan, spec, options.bounds, rows)
            return _run(plan, options, watch or _look_away, stop, commit)

    return stop.supervise(work)


@contextmanager
def _held(folder: AnyRunFolder, stop: Stop, is_shared: bool) -> Generator[None]:
    """The folder is this run's inside, and only then; a store may let wait for it."""
    with owner_only(is_shared), ExitStack() as stack:
        with stop.phase(Phase.HOLD):
            stack.enter_context(folder.held(stop.ask))
        yield


def _run(plan: Plan, options: RunOptions, watch: Watch, stop: Stop, commit: Commit) -> Result:
    started, folder = time.time(), commit.folder
    calls = (options.calls or folder.calls).absolute()
    with stop.phase(Phase.HOLD):
        folder.start_over()
        if options.fresh and options.calls is None:
            forget(folder.calls)
    setup, spending = _prepared(plan, options, commit, calls, stop)
    meters = EngineStats()
    try:
        outcome = _execute(setup, options, meters.beside(watch), stop)
    except StoppedError:
        raise StoppedError(f"{ASKED}, at once; what was completed is in {calls}") from None
    with stop.phase(Phase.HOLD):
        folder.check_held()
    manifest = _manifest(plan, outcome, options, started)
    meters.describe(manifest["models"])
    try:
        spending.note(manifest)
        with stop.phase(Phase.COMPACT):
            compact(calls, folder.owner)
        with stop.phase(Phase.COMMIT):
            is_committed = commit(outcome, manifest)
    except OSError as error:
        problem = f"cannot be written ({explain_os_error(error)}); mend that and run the same command again"
        raise OutputError(f"the output folder {folder.path} {problem}") from None
    if outcome.halted_for:
        raise stop_error(outcome.halted_for, _kept(manifest, folder, is_committed))
    result = Result(folder.path)
    _check_steps(plan, result)
    return result


def _check_steps(plan: Plan, result: Result) -> None:
    """Raises StepFailedError where a step that is given all rows failed, unless so many may fail."""
    if result.exit_code == 0:
        return
    for name, figures in result.manifest["steps"].items():
        failed = figures["rows_failed"]
        if failed and plan.graph.steps[name].is_given_all:
            rows = result.failures.to_arrow().select(["step", "message"]).to_pylist()
            said = next((row["message"] for row in rows if row["step"] == name), "")
            way = f"mend it and run the same again, no call is sent twice; or allow it with max_failed_rows={failed}"
            what = f"step {name!r} failed, and with it the {failed:,} rows that it was given"
            raise StepFailedError(f"{what}: {said}; {way}")


def _prepared(plan: Plan, options: RunOptions, commit: Commit, calls: AnyPath, stop: Stop) -> tuple[RunSetup, Spending]:
    folder = commit.folder
    try:
        with stop.phase(Phase.COMPACT):
            check_reachable(calls)
            calls.mkdir(parents=True, exist_ok=True)
            restrict_folder(calls)
            compact(calls, folder.owner)
    except OSError as error:
        raise OutputError(f"the call log {calls} cannot be written: {explain_os_error(error)}") from None
    with stop.phase(Phase.INDEX):
        index = load_index(calls, known=not options.fresh)
        spending = Spending(folder, calls, plan)
        spent = spending.before(options.fresh) if options.caps else Cost()
    options = replace(options, is_shared=are_files_shared(options.is_shared))
    run = RunContext(options, folder.parts, calls, folder.owner)
    return RunSetup(run, plan, index, spent, commit.only), spending


def _kept(manifest: dict[str, Any], folder: AnyRunFolder, is_committed: bool) -> str:
    rows = sum(leaf["rows"] for leaf in manifest["leaves"].values())
    kept = f"{rows:,} finished rows are in" if is_committed else "the rows of an earlier run stay as they were in"
    return f"; {kept} {folder.path}"


def check_caps(plan: Plan, caps: Caps) -> None:
    """Raises SpecError when money is to be counted that cannot be."""
    if caps.usd is None:
        return
    problem = "has no known price, so its cost cannot be kept under a cap; give it price=(input, output), or --prices"
    unknown = [llm for llm in plan.models if cost_usd(llm, 1000, 1000) is None]
    if unknown:
        raise SpecError(violations=[Violation(f"model {llm.label!r}", problem) for llm in unknown])


def _check_keys(plan: Plan, options: RunOptions) -> None:
    """Raises SpecError for a key that only this process has, where workers are elsewhere, and for what it has not."""
    missing = [name for name in options.env if not os.environ.get(name)]
    if missing:
        problem = "is not set where the run starts; on a cluster set it before `ray start`"
        raise SpecError(violations=[Violation(f"environment variable {name!r}", problem) for name in missing])
    held = [llm for llm in plan.models if is_held_key(llm.api_key_env)]
    if options.cluster is not None and held:
        problem = "was given a key that only this process has; set it in the cluster's environment, name it api_key_env"
        raise SpecError(violations=[Violation(f"model {llm.label!r}", problem) for llm in held])


def check_models(plan: Plan) -> None:
    """Raises SpecError with everything about models that is wrong and can be known before a call."""
    problems = [problem for llm in plan.models for problem in check_model(llm)]
    problems = problems or _refusals(plan)
    if problems:
        raise SpecError(violations=problems)


def _refusals(plan: Plan) -> list[Violation]:
    """What steps want to ask models that cannot be asked it."""
    steps = plan.graph.steps.values()
    asked = [(llm, request) for step in steps for llm in members_of(step.llm) for request in step.requests()]
    return list(dict.fromkeys(problem for llm, request in asked for problem in check_request(llm, request)))


def _check_engines(plan: Plan, options: RunOptions) -> None:
    """Raises SpecError where an engine is to run in this Python and is not installed, or a server without Ray."""
    problems = [problem for llm in plan.models for problem in missing_engine(llm)] if options.address is None else []
    if options.engine == "local":
        way = "serve: servers are started on Ray; run it there, or ask one that runs, with base_url and without serve"
        problems += [Violation(f"model {llm.label!r}", way) for llm in plan.models if llm.serve]
    if problems:
        raise SpecError(violations=problems)


def _look_away(snapshots: Sequence[Snapshot]) -> None:
    """Nobody watches."""


def _execute(setup: RunSetup, options: RunOptions, watch: Watch, stop: Stop) -> Outcome:
    if options.engine == "local":
        return local.execute(setup, watch, stop)
    from raypipe.execution import ray

    return ray.execute(setup, options.cluster, watch, stop)


def _manifest(plan: Plan, outcome: Outcome, options: RunOptions, started: float) -> dict[str, Any]:
    results = outcome.results
    totals = {name: StepCounts() for name in plan.graph.order}
    for result in results:
        for name, counts in result.counts.items():
            totals[name].add(counts)
    for stage in plan.stages:
        if stage.reads_stage is not None:
            sink = Sink("barrier", stage.entry)
            taken = sum(part.rows for result in results for part in result.parts if part.sink == sink)
            totals[stage.entry].rows_in = totals[stage.entry].rows_done = taken
    shown = sum_by_shown_step(plan.graph, totals, is_over=True)
    ended = time.time()
    return {
        "raypipe": _version("raypipe"),
        "pipeline": plan.name,
        "engine": options.engine,
        "started_at": started,
        "ended_at": ended,
        "wall_s": round(ended - started, 3),
        "max_failed_rows": options.max_failed_rows,
        "origin": options.origin,
        "stopped": outcome.halted_for or None,
        "steps": {name: _step_figures(plan, name, counts) for name, counts in shown.items()},
        "models": _model_figures(plan, totals),
        "leaves": {},
        "failures": {"rows": 0, "path": "failures"},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in ("ray", "pyarrow")},
    }


_OLD_NAMES = {"calls_sent": "sent", "calls_cached": "cached", "calls_unanswered": "tries"}
"""How manifests name the calls of each model under `steps`."""


def _step_figures(plan: Plan, name: str, counts: StepCounts) -> dict[str, Any]:
    step = plan.graph.steps[name]
    figures = asdict(counts)
    if counts.by_model:
        figures["by_model"] = {
            model: {_OLD_NAMES.get(name, name): number for name, number in did.items()}
            for model, did in counts.by_model.items()
        }
    else:
        del figures["by_model"]
    return figures | {"model": step.llm.label if step.llm else None, "cost_usd": _cost_usd(step.llm, counts)}


def _cost_usd(llm: ModelOrPool | None, counts: StepCounts) -> float | None:
    if llm is None:
        return None
    return pool_cost_usd(llm, counts.input_tokens, counts.output_tokens, counts.by_model)


def _model_figures(plan: Plan, totals: dict[str, StepCounts]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for pool in plan.pools.values():
        if pool.llm is None:
            continue
        mine = StepCounts()
        for name, counts in totals.items():
            if plan.graph.steps[name].llm in pool.llms:
                mine.add(counts)
        models[pool.name] = {
            "calls_sent": mine.calls_sent,
            "calls_cached": mine.calls_cached,
            "calls_unanswered": mine.calls_unanswered,
            "input_tokens": mine.input_tokens,
            "output_tokens": mine.output_tokens,
            "cost_usd": _cost_usd(pool.llm, mine),
        }
        if isinstance(pool.llm, ModelPool):
            models[pool.name]["members"] = _member_figures(pool.llm, mine)
    return models


def _member_figures(llm: ModelPool, counts: StepCounts) -> dict[str, Any]:
    """For each member of a pool: calls and tokens, its share of all answers, and calls that another answered for it."""
    answers = max(1, counts.calls_sent - counts.calls_unanswered + counts.calls_cached)
    found: dict[str, Any] = {}
    for name, member in name_members(llm).items():
        did = counts.by_model.get(name, {})
        sent, cached, unanswered = (did.get(name, 0) for name in _OLD_NAMES)
        tokens = did.get("input_tokens", 0), did.get("output_tokens", 0)
        found[name] = {
            "calls_sent": sent,
            "calls_cached": cached,
            "calls_unanswered": unanswered,
            "failovers": did.get("failovers", 0),
            "share": round((sent - unanswered + cached) / answers, 4),
            "input_tokens": tokens[0],
            "output_tokens": tokens[1],
            "cost_usd": cost_usd(member, *tokens),
        }
    return found


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
