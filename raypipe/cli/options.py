"""The options that several commands share, with their help texts. Knows nothing of what they do."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

SEQUENTIAL = "sequential_step_execution"
FAILURE_RATE = "0.5"
OFF = "off"
"""Of an option that has a default: without it."""

Spec = Annotated[
    str, typer.Argument(metavar="SPEC", help="YAML or JSON file or its URL, or file.py:name.", show_default=False)
]
SpecOfRun = Annotated[
    str | None, typer.Option("--spec", metavar="SPEC", help="The pipeline that was run; by default as DIR has it.")
]
Input = Annotated[
    str | None, typer.Option("--input", metavar="PATH", help="Read rows from here; takes the place of the loader.")
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STEP.PARAM=VALUE",
        help="Change one option of a step, or of a named model: models.NAME.PARAM=VALUE.",
    ),
]
Models = Annotated[
    list[str] | None, typer.Option("--model", metavar="[NAME=]URI", help="Ask provider/model instead of a model.")
]
Imports = Annotated[
    list[str] | None,
    typer.Option("--allow-import", metavar="MODULE", help="SPEC may name steps and functions of this module."),
]
Files = Annotated[
    list[str] | None,
    typer.Option("--allow-files", metavar="DIR", help="SPEC may read below this folder, beside its own."),
]
Keys = Annotated[
    list[str] | None,
    typer.Option("--allow-key", metavar="NAME=HOST", help="SPEC may send the key in NAME to this host."),
]
Hosts = Annotated[
    list[str] | None,
    typer.Option("--allow-host", metavar="HOST", help="A SPEC from a URL, or of a run folder, may name this host."),
]
Groups = Annotated[
    list[str] | None,
    typer.Option(metavar="STEP,STEP", help=f"Load these by themselves, group after group; or {SEQUENTIAL}."),
]
BaseUrls = Annotated[
    list[str] | None, typer.Option("--base-url", metavar="[NAME=]URL", help="Reach a model at this address.")
]
Folder = Annotated[str, typer.Argument(metavar="DIR", help="Run folder, or s3://BUCKET/FOLDER.", show_default=False)]
Out = Annotated[str | None, typer.Option(metavar="DIR", help="Run folder, or s3://BUCKET/FOLDER; by default out/NAME.")]
Calls = Annotated[
    str | None, typer.Option(metavar="DIR", help="Call log, here or on S3; by default in the run folder.")
]
Engines = Annotated[Literal["ray", "local"], typer.Option(help="Ray, or this process alone.")]
Address = Annotated[
    str | None, typer.Option(help="Ray cluster, or auto; by default RAY_ADDRESS, else one of its own, here.")
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget the calls made before; asks, if there are any.")]
Yes = Annotated[bool, typer.Option("--yes", help="Do not ask what --fresh may drop.")]
AllowFewer = Annotated[
    bool, typer.Option("--allow-fewer", help="Let fewer rows take the place of more, though rows failed or none came.")
]
Shared = Annotated[
    bool, typer.Option("--shared", help="Let others read the run, as the umask says; by default only its owner can.")
]
MaxFailedRows = Annotated[int, typer.Option(min=0, help="Failed rows that still count as success.")]
MaxFailedRowsOrBefore = Annotated[
    int | None, typer.Option(min=0, help="Failed rows that still count as success; by default as in the run.")
]


def _failure_rate(said: str) -> str:
    """Raises BadParameter for what is neither a share nor `off`."""
    try:
        is_sound = said == OFF or 0 < float(said) <= 1
    except ValueError:
        is_sound = False
    if not is_sound:
        raise typer.BadParameter(f"{said!r} is neither a share of rows, above 0 and up to 1, nor off")
    return said


_STOPS = "Stop when the first 20 rows of a step, or such a share of its last 200, fail for one kind of reason; or off"
MaxFailureRate = Annotated[
    str, typer.Option("--max-failure-rate", metavar="SHARE", parser=_failure_rate, help=f"{_STOPS}.")
]
MaxFailureRateOrBefore = Annotated[
    str | None,
    typer.Option("--max-failure-rate", metavar="SHARE", parser=_failure_rate, help="As of run; by default as there."),
]
AskAgain = Annotated[bool, typer.Option("--ask-again", help="Ask again what a model refused to answer.")]
MaxCostUsd = Annotated[float | None, typer.Option(min=0, help="Stop before all runs here cost more.")]
MaxCalls = Annotated[int | None, typer.Option(min=0, help="Stop before more calls are sent.")]
MaxTokens = Annotated[int | None, typer.Option(min=0, help="Stop before more tokens are used.")]
Prices = Annotated[
    Path | None, typer.Option(metavar="FILE", help="YAML: provider/model: [USD per million input, output tokens].")
]
Names = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME", help="Environment variable that every node must have; never a value."),
]
