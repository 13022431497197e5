"""Lays out numbers and columns as plain text. Knows nothing of what they mean, nor where they are shown."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from raypipe.storage.paths import AnyPath, RemotePath

UNKNOWN_PRICE = "price unknown"
_GAP = "  "


def columns(rows: Sequence[Mapping[str, str]], *, left: Sequence[str]) -> list[str]:
    """One line for each row under a line of headings; a column that is empty in every row is left out.

    Columns stand in the order of the first row; those in `left` are aligned to the left, numbers to the right.
    """
    names = [name for name in (rows[0] if rows else ()) if any(row[name] for row in rows)]
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in names}
    table = [{name: name for name in names}, *rows]
    lines = [
        _GAP.join(row[name].ljust(widths[name]) if name in left else row[name].rjust(widths[name]) for name in names)
        for row in table
    ]
    return [line.rstrip() for line in lines]


def number(count: int) -> str:
    return f"{count:,}"


def some(count: int) -> str:
    """The number, nothing for zero."""
    return number(count) if count else ""


def rows(count: int) -> str:
    return f"{count:,} row" if count == 1 else f"{count:,} rows"


def dollars(amount: float | None) -> str:
    """US dollars; `None` is a price that nobody knows, which is never zero."""
    if amount is None:
        return UNKNOWN_PRICE
    if amount == 0:
        return "$0"
    return f"${amount:,.2f}" if amount >= 1 else f"${amount:.4f}" if amount >= 0.0001 else "under $0.0001"


def duration(seconds: float) -> str:
    if round(seconds) < 60:
        return f"{seconds:.1f} s" if seconds < 5 else f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {seconds:02} s"


def shown_path(path: AnyPath) -> str:
    """Relative to the working directory where that is shorter."""
    if isinstance(path, RemotePath):
        return str(path)
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def one_line(value: object, width: int) -> str:
    """The value as text in one line of at most `width` characters."""
    text = " ".join((value if isinstance(value, str) else repr(value)).split())
    return text if len(text) <= width else text[: width - 1] + "…"
