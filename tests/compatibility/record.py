"""Runs a case in a process of its own: `python -m tests.compatibility.record CASE URL OUT [--without-pandas]`."""

from __future__ import annotations

import sys
from pathlib import Path


class _NoPandas:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Finds nothing; raises ImportError for pandas."""
        if name.partition(".")[0] == "pandas":
            raise ImportError("pandas is not to be had here")


def main() -> None:
    """Run the case; pandas cannot be imported where that is asked for."""
    case, url, out, *rest = sys.argv[1:]
    if "--without-pandas" in rest:
        sys.meta_path.insert(0, _NoPandas())
    else:
        import pandas  # noqa: F401
    from tests.compatibility.cases import CASES

    CASES[case](url).run(out if "://" in out else Path(out), engine="local")


if __name__ == "__main__":
    main()
