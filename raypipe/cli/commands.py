"""I am the commands and their options.

I do not know how anything is done: each command makes one call of the public API and prints what comes back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raypipe.cli import jobs
from raypipe.cli.exits import ReportedErrors
from raypipe.cli.options import (
    SEQUENTIAL,
    Address,
    BaseUrls,
    Calls,
    Engines,
    Files,
    Folder,
    Fresh,
    Groups,
    Hosts,
    Imports,
    Input,
    Keys,
    MaxCalls,
    MaxCostUsd,
    MaxFailedRows,
    MaxTokens,
    Models,
    Names,
    Out,
    Prices,
    Settings,
    Shared,
    Spec,
    SpecOfRun,
)

if TYPE_CHECKING:
    from raypipe.execution.context import RunOptions
    from raypipe.pipeline import Pipeline
    from raypipe.plan.load_groups import LoadGroups

_HELP = """Training datasets from pipelines of language-model calls.

SPEC is a YAML or JSON file or its URL, or file.py:name for a Pipeline in a Python file.

\b
Exit codes:
  0  all rows               3  more rows failed than allowed; the others are written
  1  bad pipeline or input  4  stopped; run it again to go on
  2  bad command line       5  an endpoint, engine or worker cannot be used
"""

app = typer.Typer(
    help=_HELP, no_args_is_help=True, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False
)

app.add_typer(jobs.app)

_ROWS_FAILED = 3


def _print_version(wanted: bool) -> None:
    if wanted:
        try:
            typer.echo(f"raypipe {version_of('raypipe')}")
        except PackageNotFoundError:
            typer.echo("raypipe, from a folder where it is not installed")
        raise typer.Exit


@app.callback()
def raypipe(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def run(  # noqa: PLR0913 - each parameter is one option of the command
    spec: Spec,
    *,
    input: Input = None,
    out: Out = None,
    calls: Calls = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
    engine: Engines = "ray",
    address: Address = None,
    fresh: Fresh = False,
    max_failed_rows: MaxFailedRows = 0,
    max_cost_usd: MaxCostUsd = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    prices: Prices = None,
    load_group: Groups = None,
    env: Names = None,
    shared: Shared = False,
) -> None:
    """Run a pipeline and write its datasets. A call that was completed before is not sent again."""
    if address is not None and engine == "local":
        raise typer.BadParameter("is for --engine ray", param_hint="--address")
    with ReportedErrors(resume=sys.argv[1:]):
        allowed = allow_import, allow_files, allow_key, allow_host
        pipeline = _pipeline(spec, input, set, model, base_url, *allowed, small=engine == "local")
        from raypipe.cli.origins import noted
        from raypipe.execution.context import RunOptions
        from raypipe.limits import Caps
        from raypipe.storage.paths import parse_path

        folder, log = pipeline.folder(out), parse_path(calls) if calls else None
        caps = Caps(max_calls, max_tokens, max_cost_usd)
        options = RunOptions(folder, log, engine, address, fresh, max_failed_rows, caps=caps)
        options = replace(options, load_groups=_groups(load_group or []), env=tuple(env or ()), is_shared=shared)
        given = {"input": input, "settings": set, "models": model, "base_urls": base_url}
        origin = noted(spec, given | {"allow_import": allow_import, "calls": calls})
        code = _watched(_priced(pipeline, prices), replace(options, origin=origin))
    raise typer.Exit(code)


@app.command()
def retry(  # noqa: PLR0913 - each parameter is one option of the command
    folder: Folder,
    *,
    spec: SpecOfRun = None,
    input: Input = None,
    calls: Calls = None,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only failures of this kind.")] = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
    engine: Engines = "ray",
    address: Address = None,
    shared: Shared = False,
) -> None:
    """Run only the rows again that failed, and merge what comes out.

    Without --spec the pipeline is what DIR has written down. Nothing else in DIR is trusted: what it imports, reads
    outside of DIR, or sends to hosts and with keys that are not its provider's, has to be allowed here.
    """
    with ReportedErrors(resume=sys.argv[1:]), TemporaryDirectory(prefix="raypipe-") as scratch:
        from raypipe.results import Result
        from raypipe.storage.paths import local_file, parse_path

        place = parse_path(folder).absolute()
        before = Result(place)
        kept = local_file(place / "pipeline.yaml", Path(scratch)) if spec is None else spec
        allowed = allow_import, allow_files, allow_key, allow_host
        changes = (input, set, model, base_url, *allowed)
        from raypipe.cli.origins import check_calls, explained
        from raypipe.cli.progress import watching
        from raypipe.cli.summary import retried
        from raypipe.execution.context import RunOptions

        origin: dict[str, Any] = before.manifest.get("origin") or {}
        check_calls(place, origin, calls)
        with explained(place, origin, is_foreign=spec is None):
            pipeline = _pipeline(kept, *changes, small=engine == "local", is_foreign=spec is None)
        log = parse_path(calls) if calls else None
        options = RunOptions(place, log, engine, address, max_failed_rows=before.manifest["max_failed_rows"])
        options = replace(options, is_shared=shared)
        with watching(pipeline.plan(), engine) as watch:
            result = pipeline.retry_with(options, kind or (), watch)
        _print(retried(before, result))
    raise typer.Exit(result.exit_code)


@app.command("dry-run")
def dry_run(  # noqa: PLR0913 - each parameter is one option of the command
    spec: Spec,
    *,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each source.")] = 1,
    live: Annotated[bool, typer.Option("--live", help="Ask the real models; this spends.")] = False,
    input: Input = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
) -> None:
    """Try a pipeline on a few rows. A stand-in plays its models, nothing is kept."""
    with ReportedErrors():
        allowed = allow_import, allow_files, allow_key, allow_host
        pipeline = _pipeline(spec, input, set, model, base_url, *allowed)
        from raypipe.cli import reports

        made = pipeline.dry_run(batch_size=rows, live=live)
        _print(reports.dry_run(pipeline, made, rows, live))
    raise typer.Exit(_ROWS_FAILED if made.failures else 0)


@app.command()
def plan(  # noqa: PLR0913 - each parameter is one option of the command
    spec: Spec,
    *,
    explain: Annotated[bool, typer.Option("--explain", help="Say what a run would reuse and send, and why.")] = False,
    out: Out = None,
    calls: Calls = None,
    input: Input = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
) -> None:
    """Print stages, pools and resources. Starts nothing and sends nothing."""
    with ReportedErrors():
        allowed = allow_import, allow_files, allow_key, allow_host
        pipeline = _pipeline(spec, input, set, model, base_url, *allowed)
        planned, problem = pipeline.plan_here()
        _print([planned.describe(), *([f"on this machine {problem}"] if problem else [])])
        if explain:
            _print(pipeline.forecast(out, calls).describe())


@app.command()
def validate(  # noqa: PLR0913 - each parameter is one option of the command
    spec: Spec,
    *,
    input: Input = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
) -> None:
    """Check what can be checked beforehand. Spends nothing."""
    with ReportedErrors():
        allowed = allow_import, allow_files, allow_key, allow_host
        pipeline = _pipeline(spec, input, set, model, base_url, *allowed)
        from raypipe.cli import reports

        _print(reports.soundness(pipeline.validate()))


@app.command()
def info(  # noqa: PLR0913 - each parameter is one option of the command
    spec: Spec,
    *,
    input: Input = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
) -> None:
    """Describe the steps, their models and columns."""
    with ReportedErrors():
        allowed = allow_import, allow_files, allow_key, allow_host
        pipeline = _pipeline(spec, input, set, model, base_url, *allowed)
        from raypipe.cli import reports

        _print(reports.description(pipeline))


@app.command()
def draw(  # noqa: PLR0913 - each parameter is one option of the command
    spec: Spec,
    *,
    out: Annotated[Path, typer.Option(help="File to write: .svg, .png or .mmd.")] = Path("pipeline.svg"),
    set: Settings = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
) -> None:
    """Draw the graph into a file."""
    with ReportedErrors():
        allowed = allow_import, allow_files, allow_key, allow_host
        _print([_pipeline(spec, None, set, None, None, *allowed).draw(out)])


@app.command()
def failures(folder: Folder) -> None:
    """Say why rows failed, by step and kind."""
    with ReportedErrors():
        from raypipe.cli import reports
        from raypipe.results import Result

        _print(reports.failures(Result(folder)))


def _groups(named: list[str]) -> LoadGroups:
    return SEQUENTIAL if named == [SEQUENTIAL] else [group.split(",") for group in named]


def _pipeline(
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


def _watched(pipeline: Pipeline, options: RunOptions) -> int:
    """Run it, show how far it is and what came out; the exit code."""
    from raypipe.cli.progress import watching
    from raypipe.cli.summary import failed_rows, summary

    with watching(pipeline.plan(), options.engine) as watch:
        result = pipeline.run_with(options, watch)
    _print_summary(*summary(result))
    if result.failed_rows:
        typer.secho(failed_rows(result), fg=typer.colors.RED, color=_color())
    return result.exit_code


def _priced(pipeline: Pipeline, prices: Path | None) -> Pipeline:
    if prices is None:
        return pipeline
    from raypipe.models.prices import read_prices

    return pipeline.priced(read_prices(prices))


def _color() -> bool | None:
    """Whether to colour; `None`: as the terminal can. https://no-color.org"""
    return False if os.environ.get("NO_COLOR") else None


def _print_summary(first: str, *others: str) -> None:
    typer.secho(first, bold=True, color=_color())
    _print(others)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)
