"""Turns a command line into one call of the public API, and only this prints.

Knows nothing of how a pipeline is built, planned or run. What a command needs loads when it is called, so that
`raypipe --help` and small runs start at once.
"""

from __future__ import annotations

import gc

from raypipe.cli.interrupts import STOPPED, Interrupts

__all__ = ["main"]

_FAILED, _INFRASTRUCTURE, _UNEXPECTED = 1, 5, 70


def main() -> None:
    """The command `raypipe`: ends the process, with one of the exit codes that `raypipe --help` lists."""
    interrupts, code = Interrupts(), STOPPED
    # Neither the loading of modules nor the end of the process leaves cycles worth a search: 0.15 s of a small run.
    gc.disable()
    try:
        from raypipe.cli.commands import app

        app(prog_name="raypipe")
    except KeyboardInterrupt:
        interrupts.say("error: stopped before anything began; run the same command again")
    except SystemExit as leaving:
        code = leaving.code if isinstance(leaving.code, int) else int(bool(leaving.code))
        if code == _FAILED and interrupts.is_heard:
            code = STOPPED  # click takes an interrupt for a failure
        if code not in (STOPPED, _INFRASTRUCTURE, _UNEXPECTED):
            interrupts.leave(code)
            raise
    finally:
        gc.freeze()
    # A thread may be asleep in a function of the user's for hours, and Ray wait for what is gone.
    interrupts.end(code)
