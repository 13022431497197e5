"""The commands that hand runs to a cluster's job server: submit, status, stop.

Knows nothing of how a job travels, nor how a run ends: its exit code is the one that `raypipe run` had there.
"""

from __future__ import annotations

import os
import re
import secrets
import shlex
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import raypipe
from raypipe.cli.exits import ReportedErrors
from raypipe.cli.options import (
    FAILURE_RATE,
    BaseUrls,
    Files,
    Fresh,
    Groups,
    Hosts,
    Imports,
    Input,
    Keys,
    MaxCalls,
    MaxCostUsd,
    MaxFailedRows,
    MaxFailureRate,
    MaxTokens,
    Models,
    Names,
    Prices,
    Settings,
    Spec,
    Yes,
)
from raypipe.cli.options import Shared as Readable

if TYPE_CHECKING:
    from raypipe.cli.job_package import Luggage
    from raypipe.execution.ray.jobs import Job, JobServer

app = typer.Typer()

_STOPPED, _LOST = 4, 5
_LEFT_ALONE = 130
"""As a shell calls a command that Ctrl+C ended: how the run ends is not known yet."""
_LAST_LINES = 15

Server = Annotated[
    str, typer.Option("--address", envvar="RAY_API_SERVER_ADDRESS", help="Job server of a cluster: http://HEAD:8265.")
]
_HERE = "http://127.0.0.1:8265"
"""Where `ray dashboard cluster.yaml` brings the job server of a cluster."""
JobName = Annotated[str, typer.Argument(metavar="JOB", help="As `submit` named it.", show_default=False)]
Shared = Annotated[
    str | None, typer.Option(metavar="DIR", help="Run folder on a disk that all nodes share, or s3://…; needed.")
]


@app.command()
def submit(  # noqa: PLR0913 - each parameter is one option of the command
    spec: Spec,
    *,
    address: Server = _HERE,
    out: Shared = None,
    detach: Annotated[bool, typer.Option("--detach", help="Do not wait for the end.")] = False,
    input: Input = None,
    calls: Annotated[str | None, typer.Option(metavar="DIR", help="Call log; by default in the run folder.")] = None,
    set: Settings = None,
    model: Models = None,
    base_url: BaseUrls = None,
    allow_import: Imports = None,
    allow_files: Files = None,
    allow_key: Keys = None,
    allow_host: Hosts = None,
    fresh: Fresh = False,
    yes: Yes = False,
    shared: Readable = False,
    max_failed_rows: MaxFailedRows = 0,
    max_failure_rate: MaxFailureRate = FAILURE_RATE,
    max_cost_usd: MaxCostUsd = None,
    max_calls: MaxCalls = None,
    max_tokens: MaxTokens = None,
    prices: Prices = None,
    load_group: Groups = None,
    env: Names = None,
) -> None:
    """Run a pipeline as a job of a cluster, and follow it. The job goes on when this command ends."""
    with ReportedErrors():
        from raypipe.cli.job_package import pack
        from raypipe.cli.specs import Wanted, pipeline_of
        from raypipe.execution.ray.jobs import JobServer

        _check_folder("--out", out or "")
        _check_folder("--calls", calls or "/")
        allowed = allow_import or (), allow_files or (), allow_key or (), allow_host or ()
        wanted = Wanted(spec, input, set or (), model or (), base_url or (), *allowed)
        (pipeline := pipeline_of(wanted)).validate()
        options = {"--out": out, "--calls": calls, "--max-failed-rows": max_failed_rows, "--max-cost-usd": max_cost_usd}
        options |= {"--max-calls": max_calls, "--max-tokens": max_tokens, "--load-group": load_group, "--env": env}
        options |= {"--max-failure-rate": max_failure_rate}
        server = JobServer(address)
        name = f"{re.sub(r'[^a-z0-9]+', '-', pipeline.name.lower()).strip('-')}-{secrets.token_hex(3)}"
        with tempfile.TemporaryDirectory(prefix="raypipe-") as folder:
            luggage = pack(pipeline, wanted, prices, Path(folder))
            entrypoint = _entrypoint(luggage, options, ["--fresh"] * fresh + ["--yes"] * yes + ["--shared"] * shared)
            package = Path(next(iter(raypipe.__path__)))  # what checked the pipeline, whatever the cluster has
            server.submit(name, entrypoint, luggage.folder, package, {"pipeline": pipeline.name, "out": out or ""})
        typer.echo(f"job {name}: {pipeline.name} runs on the cluster and writes {out}")
        raise typer.Exit(_say_how_to_look(server, name) if detach else _followed(server, name))


@app.command()
def status(
    job: Annotated[str | None, typer.Argument(metavar="[JOB]", help="One job; all without it.")] = None,
    *,
    address: Server = _HERE,
    follow: Annotated[bool, typer.Option("--follow", help="Follow its log to the end.")] = False,
) -> None:
    """Say how a job is and what it said last; without JOB, list all jobs of raypipe on the cluster."""
    with ReportedErrors():
        from raypipe.cli.layout import columns
        from raypipe.execution.ray.jobs import JobServer

        server, code = JobServer(address), 0
        if job is None:
            cells = [_cells(one) for one in server.jobs()]
            lines = columns(cells, left=list(cells[0])) if cells else [f"no job of raypipe is known at {address}"]
        else:
            lines = [f"{key}: {value}" for key, value in _cells(server.job(job)).items() if value]
            lines += [] if follow else ["", *server.log(job).splitlines()[-_LAST_LINES:]]
        for line in lines:
            typer.echo(line)
        if job is not None and follow:
            code = _followed(server, job)
    raise typer.Exit(code)


@app.command()
def stop(job: JobName, *, address: Server = _HERE) -> None:
    """Stop a job: calls in flight are waited for, what is complete is written, and the same submit goes on."""
    with ReportedErrors():
        from raypipe.execution.ray.jobs import JobServer

        server = JobServer(address)
        before = server.job(job)
        after = before if before.is_over else server.stop(job)
        said = f"had {before.status} before" if before.is_over else after.status
        typer.echo(f"job {job}: {said}" + (f"; what is complete is in {after.out}" if after.out else ""))


def _check_folder(option: str, folder: str) -> None:
    """Raises SpecError for a folder that the nodes of a cluster would look for in different places."""
    from raypipe.errors import SpecError

    if not (os.path.isabs(folder) or "://" in folder):
        problem = "wants a folder that all nodes of the cluster share, by its absolute path, or an s3://… location"
        raise SpecError.of(f"{option} {folder}".strip(), problem)


def _entrypoint(luggage: Luggage, options: dict[str, Any], flags: Sequence[str]) -> str:
    """The command line of the run. It is the process that the job server asks to stop, so no shell stays before it."""
    wanted = luggage.wanted
    changed = {"--set": wanted.settings, "--model": wanted.models, "--base-url": wanted.base_urls}
    allowed = {"--allow-import": wanted.allow_import, "--allow-files": wanted.allow_files}
    allowed |= {"--allow-key": wanted.allow_keys, "--allow-host": wanted.allow_hosts}
    given = {"--input": wanted.input, **allowed, **changed, **options, "--prices": luggage.prices}
    words = ["python", "-m", "raypipe.cli", "run", wanted.spec, "--address", "auto", *flags]
    for option, value in given.items():
        values: Sequence[object] = value if isinstance(value, list | tuple) else [value]
        words += [word for each in values if each is not None for word in (option, str(each))]
    return f"cd {shlex.quote(luggage.start)} && exec {shlex.join(words)}"


def _followed(server: JobServer, name: str) -> int:
    """The exit code of the run, once it has one; Ctrl+C only looks away."""
    try:
        job = server.follow(name, lambda text: print(text, end="", flush=True))
    except KeyboardInterrupt:
        typer.echo("", err=True)
        _say_how_to_look(server, name)
        return _LEFT_ALONE
    if job.status == "succeeded":
        return 0
    if job.status == "stopped":
        typer.echo(f"job {name}: stopped; submit it again with the same --out to go on", err=True)
        return _STOPPED
    if job.exit_code is None or job.exit_code < 0:
        typer.echo(f"error: job {name}: {' '.join(job.message.split())[:1000]}", err=True)
        return _LOST
    return job.exit_code


def _say_how_to_look(server: JobServer, name: str) -> int:
    where = f"{name} --address {server.address}"
    typer.echo(f"the job goes on; look again: raypipe status {where} --follow; stop it: raypipe stop {where}", err=True)
    return 0


def _cells(job: Job) -> dict[str, str]:
    from raypipe.cli.layout import duration

    started = time.strftime("%Y-%m-%d %H:%M", time.localtime(job.started_at)) if job.started_at else ""
    took = duration((job.ended_at or time.time()) - job.started_at) if job.started_at else ""
    code = "" if job.exit_code is None else str(job.exit_code)
    return {
        "job": job.name,
        "pipeline": job.pipeline,
        "status": job.status,
        "exit code": code,
        "started": started,
        "took": took,
        "out": job.out,
    }
