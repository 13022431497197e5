"""Reads the JSON that a model wrote: bare, in a fence, between `<JSON>` tags, or with small mistakes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from raypipe.steps.answers.parsing import read_json

_OPENS = re.compile("<JSON>", re.IGNORECASE)
_CLOSES = re.compile("</JSON>", re.IGNORECASE)
_SHOWN = 80


def parse_json(text: str | Sequence[str]) -> Any:
    """The JSON value in a text, between `<JSON>` tags where it has them; of several texts, a list of their values.

    Raises ValueError for a text that has none.
    """
    if not isinstance(text, str):
        return [parse_json(one) for one in text]
    opening = _OPENS.search(text)
    closing = _CLOSES.search(text, opening.end()) if opening else None
    found = read_json(text[opening.end() : closing.start()] if opening and closing else text)
    if found is None:
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        raise ValueError(f"no JSON value in {shown!r}")
    return found
