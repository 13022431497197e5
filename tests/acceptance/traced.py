"""The command `raypipe` in a process of its own, which notes in a file what a run is busy with.

python -m tests.acceptance.traced TRACE ARGUMENT …
"""

from __future__ import annotations

import logging
import sys


def main() -> None:
    trace, *arguments = sys.argv[1:]
    log = logging.getLogger("raypipe.phases")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(logging.FileHandler(trace))
    sys.argv = ["raypipe", *arguments]
    from raypipe.cli import main as command

    command()


if __name__ == "__main__":
    main()
