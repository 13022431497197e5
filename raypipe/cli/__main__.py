"""`python -m raypipe.cli`, the command where only the package came along and no script was installed."""

from __future__ import annotations

import sys


def start() -> None:
    """The command, or one sentence where this Python lacks what raypipe needs."""
    try:
        from raypipe.cli import main

        main()
    except ModuleNotFoundError as error:
        way = "install raypipe on the nodes of this cluster: pip install 'raypipe[cluster]'"
        print(f"error: this Python has no module {error.name!r}; {way}", file=sys.stderr)
        sys.exit(5)


if __name__ == "__main__":
    start()
