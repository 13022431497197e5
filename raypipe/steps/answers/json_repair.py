"""I read JSON that a model wrote nearly right, and give up early on text that is hopeless.

I do not know what the value should be. `json_repair` takes time that grows with the square of a degenerate
text: 150 s for 16,000 characters of `{x,}{x,}…`, which small models do write, while every other row of the worker
waits. So it reads through a text that counts, and that ends the attempt.
"""

from __future__ import annotations

from typing import Any, SupportsIndex, cast

import orjson

from raypipe.security.untrusted_text import load_json

_LOOKS_A_CHARACTER = 10
"""Sound repairs look at a character about three times: quotes, keys, commas, brackets, comments, fences."""
_COPIED_A_LOOK = 1000
"""Characters that are copied in the time of a look."""
_FEWEST_LOOKS = 20_000
_MOST_LOOKS = 200_000
"""About two seconds of a slow core."""


class _TooCostly(Exception):
    """The attempt looked at too many characters."""


class _CountedText(str):
    """A text that counts how often it is looked at; parts of it count on the same budget."""

    __slots__ = ("_left",)
    _left: list[int]

    @classmethod
    def of(cls, text: str, left: list[int]) -> _CountedText:
        made = cls(text)
        made._left = left
        return made

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        found = super().__getitem__(key)
        self._left[0] -= 1 + len(found) // _COPIED_A_LOOK
        if self._left[0] < 0:
            raise _TooCostly
        return _CountedText.of(found, self._left) if isinstance(key, slice) else found

    def __add__(self, other: str) -> str:
        return _CountedText.of(super().__add__(other), self._left)


def repair_json(text: str) -> Any:
    """The list or object in the text, `None` when there is none or it is too damaged.

    What comes back can be stored: no lone surrogates, no numbers over 64 bits.
    """
    if "{" not in text and "[" not in text:
        return None
    import json_repair

    left = [min(max(_FEWEST_LOOKS, _LOOKS_A_CHARACTER * len(text)), _MOST_LOOKS)]
    try:
        found = cast(
            object, json_repair.repair_json(_CountedText.of(text, left), return_objects=True, skip_json_loads=True)
        )
        storable = load_json(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS))
    except (_TooCostly, RecursionError, ValueError, TypeError):
        return None
    return storable if isinstance(storable, dict | list) and storable else None
