"""I run a graph once: open the run folder, choose the executor, commit outputs, write the manifest."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import orjson

from raypipe.calllog import compact, load_index
from raypipe.errors import OutputError, SpecError, StoppedError, Violation
from raypipe.execution import local
from raypipe.execution.batches import FAILURES, BatchResult, Counts, failure_table
from raypipe.execution.conductor import Snapshot
from raypipe.execution.setup import RunSetup, Watch
from raypipe.folder import RunFolder, write_whole
from raypipe.models import check_model
from raypipe.plan import Plan, inbox
from raypipe.prices import cost_usd
from raypipe.results import Result
from raypipe.schemas import leaf_schema
from raypipe.tables import output_columns, write_dataset

Engine = Literal["ray", "local"]


@dataclass(frozen=True)
class RunOptions:
    """How a plan is run."""

    out: Path
    calls: Path | None = None
    """Folder of the call log; by default inside `out`."""
    engine: Engine = "ray"
    address: str | None = None
    """Ray cluster; by default one of our own on this machine."""
    fresh: bool = False
    """Forget the calls made before."""
    max_failed_rows: int = 0
    source_rows: int | None = None
    """Read only so many rows of each source."""


def run_plan(plan: Plan, spec: bytes, options: RunOptions, watch: Watch | None = None) -> Result:
    """Run, commit and describe. `spec` is the pipeline as YAML.

    Raises SpecError, InputError, OutputError, StoppedError or InfrastructureError; whatever was
    completed by then is in the call log, and the same run resumes from there.
    """
    check_models(plan)
    folder = RunFolder(options.out)
    started = time.time()
    with folder.held():
        calls = (options.calls or folder.calls).absolute()
        folder.start_over(forget_calls=options.fresh and options.calls is None)
        calls.mkdir(parents=True, exist_ok=True)
        compact(calls, folder.owner)
        index = load_index(calls, known=not options.fresh)
        setup = RunSetup(plan, folder.parts, calls, folder.owner, index, options.source_rows)
        try:
            results = _execute(setup, options, watch or _look_away)
        except KeyboardInterrupt:
            raise StoppedError(f"stopped; run the same command again to go on with {folder.path}") from None
        manifest = _manifest(plan, results, options, started)
        try:
            _commit(folder, plan, results, manifest, spec)
            compact(calls, folder.owner)
        except OSError as error:
            problem = f"cannot be written ({error.strerror or error}); mend that and run the same command again"
            raise OutputError(f"the output folder {folder.path} {problem}") from None
    return Result(folder.path)


def check_models(plan: Plan) -> None:
    """Raises SpecError with everything about models that is wrong and can be known before a call."""
    problems: list[Violation] = []
    for pool in plan.pools.values():
        if pool.llm is not None:
            problems.extend(check_model(pool.llm))
    if problems:
        raise SpecError(violations=problems)


def _look_away(snapshots: Sequence[Snapshot]) -> None:
    """Nobody watches."""


def _execute(setup: RunSetup, options: RunOptions, watch: Watch) -> list[BatchResult]:
    if options.engine == "local":
        return local.execute(setup, watch)
    from raypipe.execution.ray.session import session

    with ExitStack() as stack:
        stack.enter_context(session(options.address))
        from raypipe.execution import ray

        return ray.execute(setup, watch)


def _commit(
    folder: RunFolder, plan: Plan, results: Sequence[BatchResult], manifest: dict[str, Any], spec: bytes
) -> None:
    data = folder.work / "data"
    data.mkdir()
    for leaf in plan.graph.leaves:
        rows = write_dataset(_parts(results, leaf), data / leaf, leaf_schema(plan.graph, leaf))
        manifest["leaves"][leaf] = {"rows": rows, "path": f"data/{leaf}"}
    failed = _parts(results, FAILURES)
    empty = output_columns(failure_table([])).schema
    manifest["failures"]["rows"] = write_dataset(failed, folder.work / "failures", empty)
    folder.commit(["data", "failures"])
    write_whole(folder.path / "pipeline.yaml", spec)
    write_whole(folder.manifest, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    folder.clear()


def _parts(results: Sequence[BatchResult], sink: str) -> Iterable[Path]:
    parts = [part for result in results for part in result.parts if part.sink == sink]
    return [Path(part.path) for part in sorted(parts, key=lambda part: part.position)]


def _manifest(plan: Plan, results: Sequence[BatchResult], options: RunOptions, started: float) -> dict[str, Any]:
    totals = {name: Counts() for name in plan.graph.order}
    for result in results:
        for name, counts in result.counts.items():
            totals[name].add(counts)
    for stage in plan.stages:
        if stage.reads_stage is not None:
            taken = sum(part.rows for result in results for part in result.parts if part.sink == inbox(stage.entry))
            totals[stage.entry].rows_in = totals[stage.entry].rows_done = taken
    ended = time.time()
    return {
        "raypipe": _version("raypipe"),
        "pipeline": plan.name,
        "engine": options.engine,
        "started_at": started,
        "ended_at": ended,
        "wall_s": round(ended - started, 3),
        "max_failed_rows": options.max_failed_rows,
        "steps": {name: _step_figures(plan, name, counts) for name, counts in totals.items()},
        "models": _model_figures(plan, totals),
        "leaves": {},
        "failures": {"rows": 0, "path": "failures"},
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in ("ray", "pyarrow")},
    }


def _step_figures(plan: Plan, name: str, counts: Counts) -> dict[str, Any]:
    step = plan.graph.steps[name]
    cost = cost_usd(step.llm, counts.input_tokens, counts.output_tokens) if step.llm is not None else None
    return asdict(counts) | {"model": step.llm.uri if step.llm else None, "cost_usd": cost}


def _model_figures(plan: Plan, totals: dict[str, Counts]) -> dict[str, Any]:
    models: dict[str, Any] = {}
    for pool in plan.pools.values():
        if pool.llm is None:
            continue
        mine = Counts()
        for name, counts in totals.items():
            if plan.graph.steps[name].llm == pool.llm:
                mine.add(counts)
        models[pool.name] = {
            "calls_sent": mine.calls_sent,
            "calls_cached": mine.calls_cached,
            "input_tokens": mine.input_tokens,
            "output_tokens": mine.output_tokens,
            "cost_usd": cost_usd(pool.llm, mine.input_tokens, mine.output_tokens),
        }
    return models


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


