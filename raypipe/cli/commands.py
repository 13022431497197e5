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
    Folder,
    Fresh,
    Groups,
    Imports,
    Input,
    MaxCalls,
    MaxCostUsd,
    MaxFailedRows,
    MaxTokens,
    Models,
    Names,
    Out,
    Prices,
    Settings,
    Spec,
)

if TYPE_CHECKING:
    from raypipe.loading import LoadGroups
    from raypipe.pipeline import Pipeline

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
) -> None:
    """Run a pipeline and write its datasets. A call that was completed before is not sent again."""
    if address is not None and engine == "local":
        raise typer.BadParameter("is for --engine ray", param_hint="--address")
    with ReportedErrors(resume=sys.argv[1:]):
        pipeline = _pipeline(spec, input, set, model, base_url, allow_import, small=engine == "local")
        origin = {"spec": spec, "input": input, "settings": set, "models": model, "base_urls": base_url}
        origin["allow_import"] = allow_import
        if prices is not None:
            from raypipe.prices import read_prices

            pipeline = pipeline.priced(read_prices(prices))
        from raypipe.cli.progress import watching
        from raypipe.cli.summary import failed_rows, summary
        from raypipe.limits import Caps
        from raypipe.places import place_of
        from raypipe.run import RunOptions

        folder, log = pipeline.folder(out), place_of(calls) if calls else None
        caps = Caps(max_calls, max_tokens, max_cost_usd)
        options = RunOptions(folder, log, engine, address, fresh, max_failed_rows, caps=caps)
        options = replace(options, load_groups=_groups(load_group or []), env=tuple(env or ()))
        options = replace(options, origin=origin | {"folder": str(Path.cwd()), "calls": calls})
        with watching(pipeline.plan(), engine) as watch:
            result = pipeline.run_with(options, watch)
        _print_summary(*summary(result))
        if result.failed_rows:
            typer.secho(failed_rows(result), fg=typer.colors.RED, color=_color())
    raise typer.Exit(result.exit_code)


@app.command()
def retry(  # noqa: PLR0913 - each parameter is one option of the command
    folder: Folder,
    *,
    kind: Annotated[list[str] | None, typer.Option("--kind", help="Only failures of this kind.")] = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    engine: Engines = "ray",
    address: Address = None,
) -> None:
    """Run only the rows again that failed, and merge what comes out."""
    with ReportedErrors(resume=sys.argv[1:]), TemporaryDirectory(prefix="raypipe-") as scratch:
        from raypipe.cli.progress import watching
        from raypipe.cli.summary import retried
        from raypipe.places import file_here, place_of
        from raypipe.results import Result
        from raypipe.run import RunOptions

        place = place_of(folder).absolute()
        before = Result(place)
        origin: dict[str, Any] = before.manifest.get("origin") or {}
        if not origin or not Path(origin.get("folder", ".")).is_dir():  # what a job brought along went with its cluster
            kept = file_here(place / "pipeline.yaml", Path(scratch))
            origin = {"spec": kept, "allow_import": origin.get("allow_import")}
        os.chdir(origin.get("folder", "."))
        changed = (("settings", set), ("models", model), ("base_urls", base_url), ("allow_import", allow_import))
        changes = [[*(origin.get(name) or ()), *(more or ())] for name, more in changed]
        pipeline = _pipeline(origin["spec"], origin.get("input"), *changes, small=engine == "local")
        calls = place_of(origin["calls"]) if origin.get("calls") else None
        options = RunOptions(place, calls, engine, address, max_failed_rows=before.manifest["max_failed_rows"])
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
) -> None:
    """Try a pipeline on a few rows. A stand-in plays its models, nothing is kept."""
    with ReportedErrors():
        pipeline = _pipeline(spec, input, set, model, base_url, allow_import)
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
) -> None:
    """Print stages, pools and resources. Starts nothing and sends nothing."""
    with ReportedErrors():
        pipeline = _pipeline(spec, input, set, model, base_url, allow_import)
        planned, problem = pipeline.plan_here()
        _print([planned.describe(), *([f"on this machine {problem}"] if problem else [])])
        if explain:
            _print(pipeline.forecast(out, calls).describe())


@app.command()
def validate(
    spec: Spec,
    input: Input = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
) -> None:
    """Check what can be checked beforehand. Spends nothing."""
    with ReportedErrors():
        pipeline = _pipeline(spec, input, set, model, base_url, allow_import)
        from raypipe.cli import reports

        _print(reports.soundness(pipeline.validate()))


@app.command()
def info(
    spec: Spec,
    input: Input = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
) -> None:
    """Describe the steps, their models and columns."""
    with ReportedErrors():
        pipeline = _pipeline(spec, input, set, model, base_url, allow_import)
        from raypipe.cli import reports

        _print(reports.description(pipeline))


@app.command()
def draw(
    spec: Spec,
    out: Annotated[Path, typer.Option(help="File to write: .svg, .png or .mmd.")] = Path("pipeline.svg"),
    set: Settings = None,
    allow_import: Imports = None,
) -> None:
    """Draw the graph into a file."""
    with ReportedErrors():
        _print([_pipeline(spec, None, set, None, None, allow_import).draw(out)])


@app.command()
def failures(folder: Folder) -> None:
    """Say why rows failed, by step and kind."""
    with ReportedErrors():
        from raypipe.cli import reports
        from raypipe.results import Result

        _print(reports.failures(Result(folder)))


def _groups(named: list[str]) -> LoadGroups:
    return SEQUENTIAL if named == [SEQUENTIAL] else [group.split(",") for group in named]


def _pipeline(spec: str, input: str | None, *changes: list[str] | None, small: bool = True) -> Pipeline:
    """`changes`: what --set, --model, --base-url and --allow-import say, as far as a command has them."""
    from raypipe.cli.start import collect_from_here, leave_pandas_out

    if small:
        leave_pandas_out()
    from raypipe.cli.specs import Wanted, pipeline_of

    pipeline = pipeline_of(Wanted(spec, input, *(change or () for change in changes)))
    collect_from_here()
    return pipeline


def _color() -> bool | None:
    """Whether to colour; `None`: as the terminal can. https://no-color.org"""
    return False if os.environ.get("NO_COLOR") else None


def _print_summary(first: str, *others: str) -> None:
    typer.secho(first, bold=True, color=_color())
    _print(others)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)
