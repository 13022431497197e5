"""Writes plain Python values as JSON text and reads them back as they were. Knows nothing of rows or tables.

What JSON can hold stands as it is; everything else is tagged: `{"$": "bytes", "v": "aGk="}`. Reading makes values
of the few types named here and nothing else, so a text from anywhere is safe to read.
"""

from __future__ import annotations

import json
import math
from base64 import b64decode, b64encode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from importlib import import_module
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

_TAG, _VALUE, _SIGN = "$", "v", b'"$"'
_NATIVE = frozenset({str, bool, type(None)})
_NUMBERS = frozenset({int, float})
_write = json.JSONEncoder(separators=(",", ":"), allow_nan=False).encode


def dumps(value: Any) -> bytes:
    """The value as text. Raises TypeError for one that is not plain, RecursionError for one nested too deeply."""
    if _is_json(value):
        try:
            return _write(value).encode()
        except ValueError:  # a float that is not a number, an integer of thousands of digits
            pass
    return _write(_tagged(value)).encode()


def _is_json(value: Any) -> bool:
    """Whether JSON holds the value as it is, as far as it can hold its numbers at all."""
    kind = type(value)
    if kind is dict:
        if _TAG in value or not set(map(type, value)) <= {str}:
            return False
        items: Any = value.values()
    elif kind is list:
        items = value
    else:
        return kind in _NATIVE or kind in _NUMBERS
    others = set(map(type, items)) - _NATIVE - _NUMBERS
    return not others or (others <= {dict, list} and all(map(_is_json, items)))


def loads(text: bytes) -> Any:
    """The value that was written. Raises ValueError for a text that `dumps` did not write."""
    try:
        return json.loads(text, object_hook=_untagged) if _SIGN in text else json.loads(text)
    except (KeyError, TypeError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"no value can be read from {text[:60]!r}: {error}") from None


def _tagged(value: Any) -> Any:
    kind = type(value)
    if kind in _NATIVE:
        return value
    if kind is int:
        return value if value.bit_length() <= 64 else _tag("int", hex(value))
    if kind is float:
        return value if math.isfinite(value) else _tag("float", str(value))
    if kind is list:
        return [_tagged(item) for item in value]
    if kind is dict:
        if _TAG not in value and all(type(key) is str for key in value):
            return {key: _tagged(item) for key, item in value.items()}
        return _tag("dict", [[_tagged(key), _tagged(item)] for key, item in value.items()])
    writer = _WRITERS.get(kind)
    if writer is not None:
        return _tag(kind.__name__, writer(value))
    if kind.__module__.partition(".")[0] == "pandas" and hasattr(value, "value"):
        # What Arrow gives for nanoseconds where pandas is there.
        zone = getattr(value, "tzinfo", None)
        return _tag(kind.__name__, [value.value, value.unit, _zone(zone, value)])
    raise TypeError(f"a value of type {kind.__name__} is not a plain value")


def _tag(name: str, value: Any) -> dict[str, Any]:
    return {_TAG: name, _VALUE: value}


def _zone(zone: tzinfo | None, value: Any) -> Any:
    """The name of a time zone, or its distance in microseconds; the distance of that moment where it has no name."""
    name = getattr(zone, "key", None) or getattr(zone, "zone", None)
    if zone is None or isinstance(name, str):
        return name
    distance = zone.utcoffset(value if isinstance(value, datetime) else None)
    return None if distance is None else distance // timedelta(microseconds=1)


def _moment(value: Any) -> list[Any]:
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo, value)]


_WRITERS: dict[type, Callable[[Any], Any]] = {
    bytes: lambda value: b64encode(value).decode(),
    **dict.fromkeys((tuple, set, frozenset), lambda value: [_tagged(item) for item in value]),
    datetime: _moment,
    time: _moment,
    date: date.isoformat,
    timedelta: lambda value: [value.days, value.seconds, value.microseconds],
    Decimal: str,
    UUID: str,
}


def _zone_of(written: Any) -> tzinfo | None:
    if written is None:
        return None
    return ZoneInfo(written) if isinstance(written, str) else timezone(timedelta(microseconds=written))


def _moment_of(kind: Any, written: Any) -> Any:
    plain, fold, zone = written
    return kind.fromisoformat(plain).replace(tzinfo=_zone_of(zone), fold=fold)


def _of_pandas(name: str, written: Any) -> Any:
    value, unit, zone = written
    made = getattr(import_module("pandas"), name)(value, unit="ns").as_unit(unit)
    return made if zone is None else made.tz_localize("UTC").tz_convert(_zone_of(zone))


_READERS: dict[str, Callable[[Any], Any]] = {
    "int": lambda written: int(written, 16),
    "float": float,
    "bytes": lambda written: b64decode(written, validate=True),
    "dict": lambda written: {key: item for key, item in written},  # pairs whose length is checked
    "tuple": tuple,
    "set": set,
    "frozenset": frozenset,
    "datetime": lambda written: _moment_of(datetime, written),
    "time": lambda written: _moment_of(time, written),
    "date": date.fromisoformat,
    "timedelta": lambda written: timedelta(*written),
    "Decimal": Decimal,
    "UUID": UUID,
    "Timestamp": lambda written: _of_pandas("Timestamp", written),
    "Timedelta": lambda written: _of_pandas("Timedelta", written),
}


def _untagged(found: dict[str, Any]) -> Any:
    return _READERS[found[_TAG]](found[_VALUE]) if _TAG in found else found
