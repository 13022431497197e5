"""Turns an error into sentences on standard error and an exit code.

Knows nothing of what was being done. A traceback shows only with RAYPIPE_DEBUG=1.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType

import typer

from raypipe.errors import RaypipeError, SpecError, StoppedError

_CAP = re.compile("max_(calls|tokens|cost)")
_UNEXPECTED = 70
"""EX_SOFTWARE of sysexits.h."""


@dataclass(frozen=True)
class ReportedErrors:
    """A block whose errors end the command: each is told in one line, or one line for each violation.

    `resume` are the arguments of the command that goes on after a stop.
    """

    resume: Sequence[str] = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        # A reader that closed the pipe is no error; typer ends the command for it.
        if error is None or isinstance(error, typer.Exit | SystemExit | BrokenPipeError):
            return
        if os.environ.get("RAYPIPE_DEBUG") == "1":
            traceback.print_exception(error)
        for line in sentences(error):
            print(f"error: {line}", file=sys.stderr)
        if self.resume and exit_code(error) == StoppedError.exit_code:
            higher = " (with a higher cap)" if _CAP.search(str(error)) else ""
            print(f"to go on{higher}: {_command(self.resume)}", file=sys.stderr)
        raise typer.Exit(exit_code(error)) from None


def _command(arguments: Sequence[str]) -> str:
    """The command, with marks where it has secrets."""
    from raypipe.cli.origins import shown_word

    before = ["", *arguments]
    return shlex.join(["raypipe", *(shown_word(word, option) for option, word in zip(before, arguments, strict=False))])


def sentences(error: BaseException) -> Sequence[str]:
    """What the user is told, one sentence each."""
    if isinstance(error, KeyboardInterrupt):
        return ["stopped; what was completed is kept, run the same command again to go on"]
    if isinstance(error, SpecError) and error.violations:
        said = [str(violation) for violation in error.violations]
    elif isinstance(error, RaypipeError):
        said = [str(error)]
    else:
        hint = "unless it comes from your own code, please report it; RAYPIPE_DEBUG=1 shows the traceback"
        what = f"{type(error).__name__}: {error}".strip().removesuffix(":")
        said = [f"unexpected error ({what}); {hint}"]
    return [" ".join(one.split()) for one in said]


def exit_code(error: BaseException) -> int:
    """4 when stopped, the error's own code when it is one of raypipe's, 70 for any other."""
    if isinstance(error, KeyboardInterrupt):
        return StoppedError.exit_code
    return error.exit_code if isinstance(error, RaypipeError) else _UNEXPECTED
