"""Reads from a header how long an endpoint asks to wait, or a number; whatever stands there, nothing is raised.

Endpoints write seconds (`20`, `1.5`), milliseconds, Go's durations (`6m0s`, `120ms`), moments since 1970 in seconds
down to nanoseconds, ISO 8601 and the three dates of HTTP (RFC 9110, 5.6.7). A number that is a moment of our age in one
of these units can be nothing else: as a duration it would be 31 years.
"""

from __future__ import annotations

import math
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

LONGEST_S = 1000 * 365.25 * 86400.0
"""No pause is read as longer: the moment at its end can still be written."""
_LONGEST_TEXT = 64
_PLAIN = re.compile(r"[+-]?[0-9]{1,20}(?:\.[0-9]{0,20})?|[+-]?\.[0-9]{1,20}", re.ASCII)
_PARTS = re.compile(r"([0-9]{1,15}(?:\.[0-9]{0,15})?)(ns|us|µs|ms|s|m|h|d)", re.ASCII)
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_SINCE_1970 = (1e9, 1e11)
"""Seconds since 1970 of moments that endpoints name: from 2001 on. The ranges of two units do not meet."""
_PARTS_OF_A_SECOND = (1.0, 1e3, 1e6, 1e9)


def number_of(text: object) -> float | None:
    """The number that a text is, in plain decimal digits; `None` for anything else."""
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        return None
    text = text.strip(" \t")
    return float(text) if _PLAIN.fullmatch(text) else None


def seconds_of(text: object, unit_s: float = 1.0, now: float | None = None) -> float | None:
    """Seconds from now that a header names, in [0, LONGEST_S]; `None` where it names none.

    `unit_s`: what a plain number counts, in seconds. `now`: seconds since 1970.
    """
    if not isinstance(text, str) or len(text) > _LONGEST_TEXT:
        return None
    text, now = text.strip(' \t"'), time.time() if now is None else now
    number, parts = number_of(text), _PARTS.findall(text)
    if number is not None:
        moment = _moment(number)
        seconds = number * unit_s if moment is None else moment - now
    elif "".join(count + unit for count, unit in parts) == text:
        seconds = sum(float(count) * _UNITS[unit] for count, unit in parts) or math.nan
    else:
        date = _date(text)
        seconds = math.nan if date is None else date - now
    return min(max(0.0, seconds), LONGEST_S) if math.isfinite(seconds) else None


def _moment(number: float) -> float | None:
    """Seconds since 1970, where a number is such a moment in any unit."""
    for parts in _PARTS_OF_A_SECOND:
        if _SINCE_1970[0] <= number / parts < _SINCE_1970[1]:
            return number / parts
    return None


def _date(text: str) -> float | None:
    """Seconds since 1970 of a date; one without zone is in UTC."""
    if not text.isascii() or not any(map(str.isdigit, text)):
        return None
    for read in (datetime.fromisoformat, parsedate_to_datetime):
        try:
            date = read(text)
            return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
        except (ValueError, TypeError, LookupError, OverflowError, AttributeError):
            continue
    return None
