"""Writes a value as text: for a model to read, or for a message to quote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def to_text(value: Any) -> str:
    """Lists and objects as JSON, nothing as empty text."""
    if value is None:
        return ""
    if not isinstance(value, list | tuple | Mapping):
        return str(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)


def quoted(value: Any) -> str:
    """A value as a message quotes it, in at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
