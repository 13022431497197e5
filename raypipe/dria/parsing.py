"""I read the JSON that a model wrote: bare, in a fence, between `<JSON>` tags, or nearly right."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from raypipe.steps.answers.parsing import read_json

_OPENS = re.compile("<JSON>", re.IGNORECASE)
_CLOSES = re.compile("</JSON>", re.IGNORECASE)
_SHOWN = 80


def parse_json(text: str | Sequence[str]) -> Any:
    """The JSON value in a text; of several texts, a list with the value of each.

    Raises ValueError for a text that has none.
    """
    if not isinstance(text, str):
        return [parse_json(one) for one in text]
    found = read_json(_between_tags(text))
    if found is None:
        shown = text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"
        raise ValueError(f"no JSON value in {shown!r}")
    return found


def _between_tags(text: str) -> str:
    """What stands between the first tag and the one that closes it; the text where there are none."""
    opening = _OPENS.search(text)
    closing = _CLOSES.search(text, opening.end()) if opening else None
    return text[opening.end() : closing.start()] if opening and closing else text
