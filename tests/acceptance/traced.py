"""The command `raypipe` in a process of its own, which notes in a file what a run is busy with.

python -m tests.acceptance.traced TRACE ARGUMENT …

With HEAD_GONE_S in its environment, it waits so long only for the head of a cluster that does not answer.
"""

from __future__ import annotations

import logging
import os
import sys


def main() -> None:
    trace, *arguments = sys.argv[1:]
    log = logging.getLogger("raypipe.phases")
    log.setLevel(logging.DEBUG)
    log.propagate = False
    log.addHandler(logging.FileHandler(trace))
    sys.argv = ["raypipe", *arguments]
    from raypipe.cli import main as command

    if said := os.environ.get("HEAD_GONE_S"):
        from raypipe.execution.ray.session import load

        load()
        from raypipe.execution.ray import head

        setattr(head, "_GONE_S", float(said))  # noqa: B010 - private to its module
    command()


if __name__ == "__main__":
    main()
