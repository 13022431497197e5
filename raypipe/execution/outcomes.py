"""I say whether what a step made of a row is what it promised, and what an exception of its means as a failure.

I do not know where the step ran.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raypipe.errors import RowError
from raypipe.row import RESERVED, Failure
from raypipe.step import Shape, Step


def misfit(step: Step, output: Any) -> Failure | None:
    """Why an output is not what the step's shape promises."""
    rows = isinstance(output, Sequence) and not isinstance(output, str)
    if step.shape is Shape.SCATTER:
        fits = rows and all(isinstance(row, Mapping) for row in output)
        promised = "a list of mappings"
    else:
        fits = isinstance(output, Mapping) or (output is None and step.shape is Shape.FILTER)
        promised = "a mapping of column names to values"
    if not fits:
        return Failure("output", f"the step returned {type(output).__name__}, not {promised}")
    made: Any = output if rows else [output or {}]
    return next((problem for row in made if (problem := misnamed(row)) is not None), None)


def misnamed(row: Mapping[Any, Any]) -> Failure | None:
    for name in row:
        if type(name) is not str:
            return Failure("output", f"the step returned the column {name!r}; column names are text")
        if name in RESERVED:
            return Failure("output", f"the step returned the column {name!r}, a name kept for lineage; rename it")
    return None


def failure_of(error: Exception, tries: int) -> Failure:
    if isinstance(error, RowError):
        return Failure(error.kind, str(error), tries)
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Failure("exception", f"{type(error).__name__}: {error}{place}", tries)
