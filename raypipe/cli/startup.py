"""Keeps out of this process what a small run does not need. Knows nothing of which command runs.

pyarrow imports pandas at the first array that is made from a list, only to
learn whether pandas' types can occur: 0.33 s of the 1.0 s that a run of ten rows takes otherwise.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


class _NoPandas(MetaPathFinder):
    """Pandas is not there; pyarrow asks once, and again when a frame is really wanted."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "pandas":
            raise ModuleNotFoundError("pandas is left out while pyarrow loads", name=fullname)
        return None


def leave_pandas_out() -> None:
    """Load pyarrow without pandas; `to_pandas()` still loads it."""
    if "pandas" in sys.modules:
        return
    finder = _NoPandas()
    sys.meta_path.insert(0, finder)
    try:
        import pyarrow as pa

        pa.array([0])
    finally:
        sys.meta_path.remove(finder)


def collect_from_here() -> None:
    """Let the garbage collector work again, on what is made from here on."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()
