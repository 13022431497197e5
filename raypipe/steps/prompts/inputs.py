"""Reads the columns of a row that go into a prompt, and makes a request of a prompt.

Knows nothing of templates.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from raypipe.contracts.llm import Request
from raypipe.errors import RowError
from raypipe.row import Values


def chat_request(prompt: str, system: str = "") -> Request:
    """A request of one message, behind a system message if there is one."""
    message = {"role": "user", "content": prompt}
    return Request(({"role": "system", "content": system}, message) if system else (message,))


def text_of(row: Values, column: str) -> str:
    """The text in a column; numbers count as text. Raises RowError (`input`) for anything else."""
    value = row[column]
    if isinstance(value, str):
        return value
    if isinstance(value, bool | int | float):
        return str(value)
    got = "null" if value is None else f"a {type(value).__name__}"
    raise RowError(f"column {column!r} is {got}, not text; fill it, or leave such rows out with when=…", kind="input")


def without_nulls(value: Any) -> Any:
    """The value with its mappings' nulls left out; nulls in lists stay.

    Among mappings in one column of a table, each has the others' keys with nulls.
    """
    if isinstance(value, Mapping):
        parts = cast("Mapping[str, Any]", value)
        return {key: without_nulls(part) for key, part in parts.items() if part is not None}
    if isinstance(value, list | tuple):
        return [without_nulls(part) for part in cast("Sequence[Any]", value)]
    return value
