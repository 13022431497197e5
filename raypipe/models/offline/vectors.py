"""Plays an embedding model and a reward model: numbers that follow from the text alone.

Knows nothing of what the text says. Texts that share words have embeddings that are close.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from raypipe.identity import canonical_json, digest

_SIZE = 32
_WORD = re.compile(r"\w+")
_DIGITS = 6


def embedding(text: str, size: int | None) -> list[float]:
    """A vector of length 1."""
    total = [0.0] * (size or _SIZE)
    for word in sorted(set(_WORD.findall(text.casefold()))) or [""]:
        total = [one + other for one, other in zip(total, _normal(word.encode(), len(total)), strict=True)]
    length = math.sqrt(sum(one * one for one in total)) or 1.0
    return [round(one / length, _DIGITS) for one in total]


def scores(body: Mapping[str, Any], count: int | None) -> list[float]:
    """The scores of a reward model for a conversation, or what its activation makes of them."""
    raw = _normal(digest(canonical_json(body.get("messages") or body.get("input"))), count or 1)
    if not body["use_activation"]:
        return [round(2 * one, _DIGITS) for one in raw]
    if len(raw) == 1:
        return [round(1 / (1 + math.exp(-raw[0])), _DIGITS)]
    weights = [math.exp(one) for one in raw]
    return [round(one / sum(weights), _DIGITS) for one in weights]


def _normal(seed: bytes, count: int) -> list[float]:
    """Numbers around 0, most of them between -2 and 2."""
    # The sum of twelve uniform numbers less 6 is nearly normal; a digest has at least twelve bytes.
    drawn = (digest(seed + index.to_bytes(4)) for index in range(count))
    return [sum(one / 255 for one in each[:12]) - 6 for each in drawn]
