"""The commands and their options.

Knows nothing of how anything is done: each command makes one call of the public API and prints what comes back.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raypipe.cli import jobs
from raypipe.cli.command_inputs import (
    as_before,
    check_address,
    confirm_fresh,
    failure_rate,
    make_pipeline,
    pipeline_of_run,
    priced,
    run_options,
)
from raypipe.cli.exits import ReportedErrors
from raypipe.cli.options import (
    FAILURE_RATE,
    Address,
    AllowFewer,
    AskAgain,
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
    MaxFailedRowsOrBefore,
    MaxFailureRate,
    MaxFailureRateOrBefore,
    MaxTokens,
    Models,
    Names,
    Out,
    Prices,
    Settings,
    Shared,
    Spec,
    SpecOfRun,
    Yes,
)

if TYPE_CHECKING:
    from raypipe.execution.context import RunOptions
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
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
    engine: Engines = "ray",
    address: Address = None,
    fresh: Fresh = False,
    yes: Yes = False,
    max_failed_rows: MaxFailedRows = 0,
    allow_fewer: AllowFewer = False,
    max_failure_rate: MaxFailureRate = FAILURE_RATE,
    max_cost_usd: MaxCostUsd = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    prices: Prices = None,
    load_group: Groups = None,
    env: Names = None,
    shared: Shared = False,
) -> None:
    """Run a pipeline and write its datasets. A call that was completed before is not sent again."""
    check_address(address, engine)
    with ReportedErrors(resume=[word for word in sys.argv[1:] if word not in ("--fresh", "--yes")]):
        allowed = allow_import, allow_files, allow_key, allow_host
        pipeline = make_pipeline(spec, input, set, model, base_url, *allowed, small=engine == "local")
        from raypipe.cli.origins import noted

        caps = max_calls, max_tokens, max_cost_usd
        options = run_options(pipeline.folder(out), calls, (engine, address), caps, load_group)
        given = {"input": input, "settings": set, "models": model, "base_urls": base_url}
        origin = noted(spec, given | {"allow_import": allow_import, "calls": calls})
        options = replace(options, fresh=fresh, max_failed_rows=max_failed_rows, origin=origin, allow_fewer=allow_fewer)
        if fresh and not yes:
            confirm_fresh(options.out, options.calls)
        rate = failure_rate(max_failure_rate)
        options = replace(options, max_failure_rate=rate, env=tuple(env or ()), is_shared=shared)
        code = _watched(priced(pipeline, prices), options)
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
    ask_again: AskAgain = False,
    max_failed_rows: MaxFailedRowsOrBefore = None,
    allow_fewer: AllowFewer = False,
    max_failure_rate: MaxFailureRateOrBefore = None,
    max_cost_usd: MaxCostUsd = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    prices: Prices = None,
    load_group: Groups = None,
    env: Names = None,
    shared: Shared = False,
) -> None:
    """Run only the rows again that failed, and merge what comes out.

    Without --spec the pipeline is what DIR has written down. Nothing else in DIR is trusted: what it imports, reads
    outside of DIR, or sends to hosts and with keys that are not its provider's, has to be allowed here.
    """
    check_address(address, engine)
    with ReportedErrors(resume=sys.argv[1:]):
        from raypipe.cli.progress import watching
        from raypipe.cli.summary import retried
        from raypipe.results import Result
        from raypipe.storage.paths import parse_path

        before, caps = Result(parse_path(folder).absolute()), (max_calls, max_tokens, max_cost_usd)
        changes = (set, model, base_url, allow_import, allow_files, allow_key, allow_host)
        pipeline = pipeline_of_run(before, spec, calls, input, *changes, small=engine == "local")
        options = run_options(before.path, calls, (engine, address), caps, load_group)
        options = replace(options, **as_before(before, max_failed_rows, max_failure_rate), ask_again=ask_again)
        options = replace(options, env=tuple(env or ()), is_shared=shared, allow_fewer=allow_fewer)
        with watching(pipeline.plan(), engine) as watch:
            result = priced(pipeline, prices).retry_with(options, kind or (), watch)
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
        pipeline = make_pipeline(spec, input, set, model, base_url, *allowed)
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
        pipeline = make_pipeline(spec, input, set, model, base_url, *allowed)
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
        pipeline = make_pipeline(spec, input, set, model, base_url, *allowed)
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
        pipeline = make_pipeline(spec, input, set, model, base_url, *allowed)
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
        _print([make_pipeline(spec, None, set, None, None, *allowed).draw(out)])


@app.command()
def failures(folder: Folder) -> None:
    """Say why rows failed, by step and kind."""
    with ReportedErrors():
        from raypipe.cli import reports
        from raypipe.results import Result

        _print(reports.failures(Result(folder)))


def _watched(pipeline: Pipeline, options: RunOptions) -> int:
    """Run it, show how far it is and what came out; the exit code."""
    from raypipe.cli.progress import watching
    from raypipe.cli.summary import failed_rows, summary

    with watching(pipeline.plan(), options.engine) as watch:
        result = pipeline.run_with(options, watch)
    # As the terminal can, or not at all: https://no-color.org
    color = False if os.environ.get("NO_COLOR") else None
    first, *others = summary(result)
    typer.secho(first, bold=True, color=color)
    _print(others)
    if result.failed_rows:
        typer.secho(failed_rows(result), fg=typer.colors.RED, color=color)
    return result.exit_code


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        typer.echo(line)
