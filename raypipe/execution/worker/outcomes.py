"""Checks what a step made of a row against what it promised, and turns an exception into a failure.

The one door through which values of user code come into the rows: behind it all values are plain. Knows nothing of
where the step ran.
"""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, cast

from raypipe.contracts.step import Shape, Step
from raypipe.errors import RowError
from raypipe.execution.worker.boundary import Boundary, describe, error_text
from raypipe.row import KEPT_NAMES, Failure
from raypipe.values.plain import MOST_ITEMS, NotPlainError, to_plain

Rows = Sequence[dict[str, Any]]

_NOWHERE = object()
_ADVICE = "return texts, numbers, dates, lists or mappings"


@dataclass(eq=False)
class _OutputReader:
    """One output of a step while its values are read: the column, and the type of its value, that it is at."""

    step: Step
    column: Any = _NOWHERE
    kind: str = ""

    def rows(self, output: Any) -> Rows | None:
        step, kind = self.step, type(output)
        if step.shape is not Shape.SCATTER:
            if output is None and step.shape is Shape.FILTER:
                return None
            return (self._row(output, kind, "a mapping of column names to values"),)
        if issubclass(kind, str) or not issubclass(kind, Sequence):
            raise _misfit(kind, "a list of mappings")
        items = cast("Iterable[Any]", output if kind in (list, tuple) else islice(iter(output), MOST_ITEMS))
        return [self._row(item, type(item), "a list of mappings", kind) for item in items]

    def _row(self, row: Any, kind: type, promised: str, whole: type | None = None) -> dict[str, Any]:
        if not issubclass(kind, Mapping):
            raise _misfit(whole or kind, promised)
        pairs = dict.items(row) if issubclass(kind, dict) else [(name, row[name]) for name in row]
        found: dict[str, Any] = {}
        for name, value in cast("Iterable[tuple[Any, Any]]", pairs):
            if type(name) is not str or not name.isascii() or name in KEPT_NAMES:
                self._check(name)
            if value is None or type(value) in _PLAIN_TYPES:
                found[name] = value
            else:
                self.column, self.kind = name, type(value).__name__
                found[name] = to_plain(value)
        return found

    def _check(self, name: Any) -> None:
        if type(name) is not str:
            raise RowError(f"the step returned the column {name!r}; column names are text", kind="output")
        if name in KEPT_NAMES and name not in self.step.writes():
            problem = f"the step returned the column {name!r}, a name kept for lineage; rename it"
            raise RowError(problem, kind="output")
        if any("\ud800" <= character <= "\udfff" for character in name):
            raise RowError(
                f"the step returned the column {name!r}, which is no text that can be written", kind="output"
            )


_PLAIN_TYPES = frozenset({bool, float})


def _misfit(kind: type, promised: str) -> RowError:
    return RowError(f"the step returned {kind.__name__}, not {promised}", kind="output")


def _is_plain_row(output: dict[Any, Any]) -> bool:
    """Whether an output is a row as it stands, by a quick look: most are."""
    for name, value in output.items():
        if type(name) is not str or not name.isascii() or name in KEPT_NAMES:
            return False
        if type(value) is str:
            if len(value) > _SHORT:
                return False
        elif value is not None and type(value) not in _PLAIN_TYPES:
            return False
    return True


_SHORT = 1 << 20


def accept(name: str, step: Step, output: Any) -> Rows | Exception | None:
    """The rows that an output of the step `name` is, with plain values; `None` for a row that is filtered.

    An exception where it is not what the step's shape promises, or holds what no row can.
    """
    if type(output) is dict and step.shape is Shape.MAP and _is_plain_row(output):
        return (output.copy(),)
    reader = _OutputReader(step)
    with Boundary() as boundary:
        return reader.rows(output)
    error = boundary.error
    if error is None or isinstance(error, RowError):
        return error
    if reader.column is _NOWHERE:
        return RowError(f"what step {name!r} returned cannot be read ({describe(error)})", kind="output")
    where = f"step {name!r} returned in column {reader.column!r}"
    if isinstance(error, NotPlainError):
        is_within = str(error).count(" ") == 1 and str(error) != f"a {reader.kind}"
        inside = f" (in a {reader.kind})" if is_within else ""
        return RowError(f"{where} {error}{inside}, which no row can hold; {_ADVICE}", kind="output")
    return RowError(f"{where} a {reader.kind} that cannot be read ({describe(error)}); {_ADVICE}", kind="output")


def make_failure(error: Exception) -> Failure:
    """The failure of a row whose step raised `error`: a defect of the step has the place in its code."""
    if isinstance(error, RowError):
        return Failure(error.kind if type(error.kind) is str else "step", error_text(error))
    place = ""
    with Boundary():
        frames = traceback.extract_tb(error.__traceback__)
        place = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    return Failure("exception", f"{describe(error)}{place}")
