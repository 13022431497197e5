"""Makes the pipeline and the run options that a command line asks for. Runs nothing.

What takes long to import is imported where it is used: the screen of help is to be there at once.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import typer

from raypipe.cli.options import FAILURE_RATE, OFF, SEQUENTIAL
from raypipe.errors import SpecError

if TYPE_CHECKING:
    from raypipe.execution.context import Engine, RunOptions
    from raypipe.pipeline import Pipeline
    from raypipe.results import Result
    from raypipe.storage.paths import AnyPath


def check_address(address: str | None, engine: str) -> None:
    if address is not None and engine == "local":
        raise typer.BadParameter("is for --engine ray", param_hint="--address")


def confirm_fresh(out: AnyPath, calls: AnyPath | None) -> None:
    """Say what starting over would drop, and ask. Raises SpecError where nobody can answer, Exit for a no."""
    from raypipe.run.earlier_run import describe_what_fresh_drops

    dropped = describe_what_fresh_drops(out, calls)
    if not dropped:
        return
    if not sys.stdin.isatty():
        problem = f"{dropped.removeprefix('--fresh ')}; add --yes if that is wanted, or leave --fresh out"
        raise SpecError.of("--fresh", problem)
    with suppress(typer.Abort):
        if typer.confirm(f"{dropped}; go on?", err=True):
            return
    raise typer.Exit(1)


def run_options(
    out: AnyPath,
    calls: str | None,
    cluster: tuple[Engine, str | None],
    caps: tuple[int | None, int | None, float | None],
    groups: list[str] | None,
) -> RunOptions:
    """What `run` and `retry` have in common. `cluster`: engine and address; `caps`: calls, tokens, US dollars."""
    from raypipe.execution.context import RunOptions
    from raypipe.limits import Caps
    from raypipe.storage.paths import parse_path

    named: Any = SEQUENTIAL if groups == [SEQUENTIAL] else [group.split(",") for group in groups or ()]
    log = parse_path(calls) if calls else None
    return RunOptions(out, log, *cluster, caps=Caps(*caps), load_groups=named)


def failure_rate(said: str) -> float | None:
    """What --max-failure-rate says."""
    return None if said == OFF else float(said)


def as_before(before: Result, max_failed_rows: int | None, max_failure_rate: str | None) -> dict[str, Any]:
    """Options of a retry: those of the run before, where it does not say otherwise."""
    most = before.manifest["max_failed_rows"] if max_failed_rows is None else max_failed_rows
    rate = before.manifest.get("max_failure_rate", float(FAILURE_RATE))
    rate = rate if max_failure_rate is None else failure_rate(max_failure_rate)
    return {"max_failed_rows": most, "max_failure_rate": rate, "origin": before.manifest.get("origin")}


def make_pipeline(
    spec: str, input: str | None, *changes: list[str] | None, small: bool = True, is_foreign: bool = False
) -> Pipeline:
    """`changes`: what --set, --model, --base-url and --allow-… say, as far as a command has them."""
    from raypipe.cli.startup import collect_from_here, leave_pandas_out

    if small:
        leave_pandas_out()
    from raypipe.cli.specs import Wanted, pipeline_of
    from raypipe.execution.stopping import Phase, log_phase

    with log_phase(Phase.READ):
        pipeline = pipeline_of(Wanted(spec, input, *(change or () for change in changes), is_foreign=is_foreign))
    collect_from_here()
    return pipeline


def pipeline_of_run(
    before: Result, spec: str | None, calls: str | None, input: str | None, *changes: list[str] | None, small: bool
) -> Pipeline:
    """The pipeline whose rows are retried: `spec`, or what its run folder has written down, with the same changes.

    Raises SpecError.
    """
    from raypipe.cli.origins import check_calls, explained
    from raypipe.storage.paths import local_file
    from raypipe.storage.run_files import spec_path

    origin = before.manifest.get("origin") or {}
    check_calls(before.path, origin, calls)
    with TemporaryDirectory(prefix="raypipe-") as scratch, explained(before.path, origin, is_foreign=spec is None):
        kept = local_file(spec_path(before.path, before.manifest), Path(scratch)) if spec is None else spec
        return make_pipeline(kept, input, *changes, small=small, is_foreign=spec is None)


def priced(pipeline: Pipeline, prices: Path | None) -> Pipeline:
    if prices is None:
        return pipeline
    from raypipe.models.prices import read_prices

    return pipeline.priced(read_prices(prices))
