"""Runs a plan once: holds the run folder, executes, commits what came out. Knows nothing of how rows travel."""

from __future__ import annotations

import time
from collections.abc import Collection, Generator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from raypipe.calls.compaction import compact
from raypipe.calls.damage import Damage, as_manifest
from raypipe.calls.index import load_index
from raypipe.calls.remote import forget
from raypipe.calls.segment_files import in_use
from raypipe.errors import OutputError, StepFailedError, StoppedError, stop_error
from raypipe.execution import local
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.engine_stats import EngineStats
from raypipe.execution.setup import Outcome, RunSetup, Watch
from raypipe.execution.stopping import ASKED, Phase, Stop
from raypipe.plan.load_groups import in_groups
from raypipe.plan.plan import Plan
from raypipe.results import Result
from raypipe.run.account import FolderAccount
from raypipe.run.checks import check_run
from raypipe.run.commit import Commit
from raypipe.run.earlier_run import check_same_pipeline
from raypipe.run.identity_version import identity_version
from raypipe.run.manifest import describe_run
from raypipe.run.spending_history import COMPLETE, Spending
from raypipe.security.file_modes import are_files_shared, owner_only, restrict_folder
from raypipe.storage.paths import AnyPath, check_reachable, explain_os_error
from raypipe.storage.remote_run_folder import AnyRunFolder, run_folder_at
from raypipe.storage.vanishing import watching_folders


def run_plan(
    plan: Plan, spec: bytes, options: RunOptions, watch: Watch | None = None, stop: Stop | None = None
) -> Result:
    """Run, commit and describe. `spec` is the pipeline as YAML; any thread may call `stop.ask`, beside the signals.

    Raises SpecError, InputError, OutputError, RowsKeptError, StoppedError or InfrastructureError; whatever was
    completed by then is in the call log, and the same run resumes from there.
    """
    return _checked_run(plan, spec, options, None, watch, stop)


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
    return _checked_run(plan, spec, options, kinds, watch, stop)


def _checked_run(
    plan: Plan, spec: bytes, options: RunOptions, kinds: Collection[str] | None, watch: Watch | None, stop: Stop | None
) -> Result:
    """A run, or a retry of rows whose failures are of `kinds` (of all where it is empty)."""
    plan = in_groups(plan, options.load_groups)
    check_run(plan, options)
    folder, stop = run_folder_at(options.out), stop or Stop()

    def work() -> Result:
        with _held(folder, stop, options.is_shared), ExitStack() as stack:
            if not options.fresh:
                with stop.phase(Phase.HOLD):
                    check_same_pipeline(folder, plan)
            retried = None if kinds is None else Result(folder.path).failed_sources(kinds)
            if retried is not None and not retried:
                return Result(folder.path)
            commit = Commit(folder, plan, spec, options, retried if len(plan.stages) == 1 else None)
            commit.check_carried()
            return _run(plan, options, watch or (lambda _: None), stop, commit, stack)

    return stop.supervise(work)


@contextmanager
def _held(folder: AnyRunFolder, stop: Stop, is_shared: bool) -> Generator[None]:
    """Inside, the folder belongs to this run alone; in a store it may take a while to get it."""
    with owner_only(is_shared), ExitStack() as stack:
        with stop.phase(Phase.HOLD):
            stack.enter_context(folder.held(stop.ask))
        yield


def _run(plan: Plan, options: RunOptions, watch: Watch, stop: Stop, commit: Commit, stack: ExitStack) -> Result:
    """`stack`: of what is held until the run ends."""
    started, folder = time.time(), commit.folder
    calls = (options.calls or folder.calls).absolute()
    with stop.phase(Phase.HOLD):
        folder.start_over()
        if options.fresh and options.calls is None:
            forget(folder.calls)
    setup, spending, damaged = _prepared(plan, options, commit, calls, stop, stack)
    meters = EngineStats(watch=watch)
    stack.enter_context(watching_folders([folder.path, folder.own, calls], stop.fail))
    with spending.leg(options) as ledger:
        setup = replace(setup, run=replace(setup.run, ledger=ledger))
        try:
            outcome = _execute(setup, options, meters.take, stop)
        except StoppedError:
            raise StoppedError(f"{ASKED}, at once; what was completed is in {calls}") from None
        spending.end(outcome.halted_for or COMPLETE)
    with stop.phase(Phase.HOLD):
        folder.check_held()
    manifest = describe_run(plan, outcome, setup.run, started)
    meters.describe(manifest["models"])
    commit.complete = FolderAccount(plan, spending.book, spending.legs).complete
    try:
        with stop.phase(Phase.COMPACT):
            damaged += compact(calls, folder.owner)
        manifest["call_log"] = as_manifest(damaged)
        with stop.phase(Phase.COMMIT):
            is_committed = commit(outcome, manifest)
    except OSError as error:
        problem = f"cannot be written ({explain_os_error(error)}); fix that and run the same command again"
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
            way = f"fix it and run the same again, no call is sent twice; or allow it with max_failed_rows={failed}"
            what = f"step {name!r} failed, and with it the {failed:,} rows that it was given"
            raise StepFailedError(f"{what}: {said}; {way}")


def _prepared(
    plan: Plan, options: RunOptions, commit: Commit, calls: AnyPath, stop: Stop, stack: ExitStack
) -> tuple[RunSetup, Spending, list[Damage]]:
    """The run, what was spent before, and what of the call log is damaged."""
    folder = commit.folder
    try:
        with stop.phase(Phase.COMPACT):
            check_reachable(calls)
            calls.mkdir(parents=True, exist_ok=True)
            restrict_folder(calls)
            stack.enter_context(in_use(calls, folder.owner))
            damaged = compact(calls, folder.owner)
    except OSError as error:
        raise OutputError(f"the call log {calls} cannot be written: {explain_os_error(error)}") from None
    with stop.phase(Phase.INDEX):
        version = identity_version(calls, folder.committed() if commit.only is not None else {})
        index = load_index(calls, known=not options.fresh, is_kept=True)
        spending = Spending(folder, calls, plan)
    options = replace(options, is_shared=are_files_shared(options.is_shared))
    run = RunContext(options, folder.parts, calls, folder.owner, identity=version)
    return RunSetup(run, plan, index, commit.only), spending, [*damaged, *index.damaged]


def _kept(manifest: dict[str, Any], folder: AnyRunFolder, is_committed: bool) -> str:
    rows = sum(leaf["rows"] for leaf in manifest["leaves"].values())
    kept = f"{rows:,} finished rows are in" if is_committed else "the rows of an earlier run are unchanged in"
    return f"; {kept} {folder.path}"


def _execute(setup: RunSetup, options: RunOptions, watch: Watch, stop: Stop) -> Outcome:
    if options.engine == "local":
        return local.execute(setup, watch, stop)
    from raypipe.execution import ray

    return ray.execute(setup, options.cluster, watch, stop)
