"""Chooses a number within the bounds of a JSON Schema.

Knows nothing of what it counts, except that a score is small.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

from raypipe.models.offline.flat_schema import Flat, impossible

_GRADES = ("score", "rating", "grade", "stars")
_USUAL_SPAN = 9


def number_for(flat: Flat, name: str, turn: int, is_integer: bool) -> int | float:
    """A number that `flat` allows; turns in a row differ where the bounds leave room."""
    if is_integer or "multipleOf" in flat:
        return _multiple(flat, name, turn, is_integer)
    lows: list[Any] = [flat[word] for word in ("minimum", "exclusiveMinimum") if word in flat]
    highs: list[Any] = [flat[word] for word in ("maximum", "exclusiveMaximum") if word in flat]
    if lows:
        least = max(lows)
        most = min(highs) if highs else least + _USUAL_SPAN
    else:
        most = min(highs, default=1.0)
        least = most - _USUAL_SPAN if highs else 0.0
    share = (turn * 37 % 99 + 1) / 100
    exact = least * (1 - share) + most * share
    return round(exact, 2) if least < round(exact, 2) < most else min(max(exact, least), most)


def _multiple(flat: Flat, name: str, turn: int, is_integer: bool) -> int | float:
    step = Fraction(str(flat.get("multipleOf", 1)))
    # A multiple of a/b in lowest terms is whole exactly when it is a multiple of a.
    step = Fraction(step.numerator) if is_integer else step
    first, last = _whole_edges(flat, step)
    if first is None and last is None:
        first, last = 1, 5 if any(grade in name.lower() for grade in _GRADES) else 1 + _USUAL_SPAN
    if first is None:
        assert last is not None
        first = min(1, last) if last >= 1 else last - _USUAL_SPAN
    last = first + _USUAL_SPAN if last is None else last
    if last < first:
        raise impossible("no number lies within its bounds")
    value = (first + turn % (last - first + 1)) * step
    return int(value) if value.denominator == 1 else float(value)


def _whole_edges(flat: Flat, step: Fraction) -> tuple[int | None, int | None]:
    """Smallest and largest allowed multiple, counted in steps."""
    lows = [math.ceil(Fraction(flat["minimum"]) / step)] if "minimum" in flat else []
    highs = [math.floor(Fraction(flat["maximum"]) / step)] if "maximum" in flat else []
    if "exclusiveMinimum" in flat:
        lows.append(math.floor(Fraction(flat["exclusiveMinimum"]) / step) + 1)
    if "exclusiveMaximum" in flat:
        highs.append(math.ceil(Fraction(flat["exclusiveMaximum"]) / step) - 1)
    return max(lows, default=None), min(highs, default=None)
