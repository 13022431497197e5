"""Reads a text file as one row. Knows nothing of what it says; `ChunkText` cuts it into pieces."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.steps.files.locate import open_file

_LARGEST_BYTES = 1 << 30


def names(path: str) -> list[str]:
    """The text, and the name of its file without folders."""
    return ["text", "file"]


def count(path: str, limit: int) -> int:
    """One: a file is one row."""
    return 1


def tables(path: str, batch_rows: int) -> Iterator[pa.Table]:
    """One table of one row. Raises InputError for a file that is not UTF-8 text, or is larger than 1 GiB."""
    with open_file(path) as file:
        content = file.read(_LARGEST_BYTES + 1)
    if len(content) > _LARGEST_BYTES:
        raise InputError(f"file {path!r} is larger than 1 GiB; split it")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"file {path!r} is not UTF-8 text (byte {error.start}); convert it or leave it out") from None
    yield pa.table({"text": [text], "file": [os.path.basename(path)]})
