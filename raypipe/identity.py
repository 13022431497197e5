"""The same value has the same digest on every machine, forever (versioned).

Turns plain values (null, booleans, numbers, text, bytes, lists, mappings) into canonical bytes,
and bytes into 16-byte digests. Knows nothing of what a row or a request means.

Canonical JSON follows RFC 8785 (JSON Canonicalization Scheme) in what decides equality: keys are
sorted, a float with an integral value is written as that integer, text is UTF-8 without
escapes and is not normalised. What JSON cannot say (bytes, NaN, dates, decimals) is tagged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any
from uuid import UUID

import orjson

VERSION = 1
SIZE_BYTES = 16

_PERSON = f"raypipe{VERSION}".encode()
_EXACT_FLOAT = 2.0**53
_TAGGED = (Decimal, UUID, datetime, date, time, timedelta)


def digest(*parts: bytes) -> bytes:
    """A digest of 16 bytes of `parts` in this order; borders between parts count."""
    return blake2b(b"".join(map(_sized, parts)), digest_size=SIZE_BYTES, person=_PERSON).digest()


@lru_cache(maxsize=1024)
def _begun(*parts: bytes) -> blake2b:
    """A hasher that has read `parts`, which begin many digests; to be copied."""
    hasher = blake2b(digest_size=SIZE_BYTES, person=_PERSON)
    for part in parts:
        hasher.update(_sized(part))
    return hasher


def canonical_json(value: Any) -> bytes:
    """Canonical bytes of a plain value.

    Raises TypeError for a value that has no canonical form (an object, a function).
    """
    return orjson.dumps(_plain(value), option=orjson.OPT_SORT_KEYS)


def _plain(value: Any) -> Any:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return value
    if kind is int:
        return value if -(2**63) <= value < 2**64 else {"$int": str(value)}
    if kind is float:
        if not math.isfinite(value):
            return {"$float": str(value)}
        return int(value) if value.is_integer() and abs(value) <= _EXACT_FLOAT else value
    if kind is dict:
        return {
            key if type(key) is str else str(key): item if type(item) is str else _plain(item)
            for key, item in value.items()
        }
    if kind is list or kind is tuple:
        return [_plain(item) for item in value]
    return _rare(value)


def _rare(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}  # pyright: ignore[reportUnknownVariableType]
    if isinstance(value, bytes | bytearray | memoryview):
        return {"$bytes": bytes(value).hex()}
    if isinstance(value, _TAGGED):
        return {f"${type(value).__name__.lower()}": str(value)}
    if isinstance(value, set | frozenset):
        return {"$set": sorted(canonical_json(item).decode() for item in value)}  # pyright: ignore[reportUnknownVariableType]
    if hasattr(value, "item") or hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    for base in (str, int, float):
        if isinstance(value, base):
            return _plain(base(value))
    raise TypeError(f"a value of type {type(value).__name__} has no canonical form")


def row_identity(content: bytes, occurrence: int) -> bytes:
    """Identity of a source row.

    `content` is the canonical JSON of the row (or of its identity columns), `occurrence` counts equal rows before it in
    the source.
    """
    hasher = _begun(b"row").copy()
    hasher.update(len(content).to_bytes(8, "little") + content + occurrence.to_bytes(8, "little"))
    return hasher.digest()


def source_identity(content: bytes, unit: str, occurrence: int) -> bytes:
    """Identity of a source row in call logs that were begun by version 0.1.0.

    `content` is the canonical JSON of the row (or of its identity columns), `unit` names the
    list or file it stands in, `occurrence` counts equal rows before it in that unit.
    """
    hasher = _begun(b"source").copy()
    hasher.update(len(content).to_bytes(8, "little") + content + _place(unit, occurrence))
    return hasher.digest()


@lru_cache(maxsize=1024)
def _place(unit: str, occurrence: int) -> bytes:
    return _sized(unit.encode()) + _sized(occurrence.to_bytes(8, "little"))


def child_identity(parent: bytes, step: str, index: int) -> bytes:
    """Identity of the `index`-th row that `step` made from the row `parent`."""
    return digest(b"child", parent, step.encode(), index.to_bytes(8, "little"))


def group_identity(step: str, key: bytes) -> bytes:
    """Identity of the row that `step` made from all rows with the group key `key`."""
    return digest(b"group", step.encode(), key)


def call_key(step: str, row: bytes, ordinal: int, sample: int, request: bytes) -> bytes:
    """Identity of a model call: where it was asked, and the digest of what is sent."""
    hasher = _begun(b"call", step.encode()).copy()
    hasher.update(_sized(row) + _numbers(ordinal, sample) + _sized(request))
    return hasher.digest()


@lru_cache(maxsize=1024)
def _numbers(ordinal: int, sample: int) -> bytes:
    return _sized(ordinal.to_bytes(4, "little")) + _sized(sample.to_bytes(4, "little"))


def request_identity(label: str, payload: Any) -> bytes:
    """Identity of what is sent to the model `label`. Raises TypeError as `canonical_json`."""
    hasher = _begun(label.encode()).copy()
    hasher.update(_sized(canonical_json(payload)))
    return hasher.digest()


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(8, "little") + part
