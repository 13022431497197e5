"""Reads JSON that a model wrote nearly right, and gives up early on text that is hopeless.

Knows nothing of what the value should be. `json_repair` takes time that grows with the square of a degenerate
text: 150 s for 16,000 characters of `{x,}{x,}…`, which small models do write, while every other row of the worker
waits. So it reads through a text that counts, and that ends the attempt. A release of the library that reads in another
way is refused in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from typing import Any, SupportsIndex

import orjson

from raypipe.errors import InfrastructureError
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

    def __new__(cls, text: str, left: list[int]) -> _CountedText:
        made = super().__new__(cls, text)
        made._left = left
        return made

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        found = super().__getitem__(key)
        self._left[0] -= 1 + len(found) // _COPIED_A_LOOK
        if self._left[0] < 0:
            raise _TooCostly
        return _CountedText(found, self._left) if isinstance(key, slice) else found

    def __add__(self, other: str) -> str:
        return _CountedText(super().__add__(other), self._left)


@cache
def _library() -> Callable[..., Any]:
    """What repairs. Raises InfrastructureError for a release of it whose work cannot be counted."""
    import json_repair

    text, budget = "[{'a': 1,}, {'b', 2]", 1_000_000
    left = [budget]
    try:
        json_repair.repair_json(_CountedText(text, left), return_objects=True, skip_json_loads=True)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        problem = f"fails with {type(error).__name__}: {error}"
    else:
        if budget - left[0] >= len(text):
            return json_repair.repair_json
        problem = "reads text in a way that cannot be bounded"
    raise InfrastructureError(
        f"json-repair {version('json-repair')} {problem}; install a release that raypipe knows: "
        "pip install 'json-repair==0.64.*'"
    )


def repair_json(text: str) -> Any:
    """The list or object in the text, `None` when there is none or it is too damaged.

    What comes back can be stored: no lone surrogates, no numbers over 64 bits. Raises InfrastructureError for a release
    of `json_repair` that cannot be used.
    """
    if "{" not in text and "[" not in text:
        return None
    repair = _library()
    left = [min(max(_FEWEST_LOOKS, _LOOKS_A_CHARACTER * len(text)), _MOST_LOOKS)]
    try:
        found = repair(_CountedText(text, left), return_objects=True, skip_json_loads=True)
        storable = load_json(orjson.dumps(found, option=orjson.OPT_NON_STR_KEYS))
    except (_TooCostly, RecursionError, ValueError, TypeError):
        return None
    return storable if isinstance(storable, dict | list) and storable else None
