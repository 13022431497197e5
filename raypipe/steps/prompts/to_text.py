"""I write a value as text that a model reads; I do not know where the text is put."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def shown(value: Any) -> str:
    """Lists and objects as JSON, nothing as empty text."""
    if value is None:
        return ""
    if not isinstance(value, list | tuple | Mapping):
        return str(value)
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
