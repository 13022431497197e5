"""I turn a command line into one call of the public API, and only I print.

I do not know how a pipeline is built, planned or run. What a command needs loads when it is called, so that
`raypipe --help` and small runs start at once.
"""

from __future__ import annotations

import gc
import os
import sys

__all__ = ["main"]

_STOPPED = 4


def main() -> None:
    """The command `raypipe`: ends the process, with one of the exit codes that `raypipe --help` lists."""
    # Neither the loading of modules nor the end of the process leaves cycles worth a search: 0.15 s of a small run.
    gc.disable()
    try:
        from raypipe.cli.commands import app

        app(prog_name="raypipe")
    except KeyboardInterrupt:
        print("error: stopped before anything began; run the same command again", file=sys.stderr)
        _leave_at_once()
    except SystemExit as leaving:
        if leaving.code == _STOPPED:
            _leave_at_once()
        raise
    finally:
        gc.freeze()


def _leave_at_once() -> None:
    """End without waiting for threads: a function of the user's may be asleep in one for hours."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_STOPPED)
