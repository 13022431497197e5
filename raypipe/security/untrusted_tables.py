"""Opens Parquet and Arrow files of unknown makers. Knows nothing of what their columns mean.

The schema of such a file may name extension types. Arrow makes a registered one while it opens the file, and some that
are registered by libraries read pickled objects. So the names are struck out of a schema before Arrow sees it: every
column is read as the type that it is stored as.
"""

from __future__ import annotations

import binascii
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_NAMED = b"ARROW:extension:name"
_STRUCK = b"raypipe:foreign_type"
"""As long as the other, so that nothing moves."""
_SCHEMA, _UNSEEN = b"ARROW:schema", b"ARROW:unseen"
_MAGIC = b"PAR1"
_TAIL_BYTES = 8
assert len(_NAMED) == len(_STRUCK)
assert len(_SCHEMA) == len(_UNSEEN)


def open_parquet(path: str | Path, store: Any = None, pre_buffer: bool = True, buffer_size: int = 0) -> Any:
    """A `ParquetFile`, whatever extension types its schema names. `store`: the file system that it is in.

    `buffer_size`: bytes of a column that are read at once; 0: all of a row group.

    Raises OSError, ArrowInvalid for what is not a whole Parquet file.
    """
    with open(path, "rb") if store is None else store.open_input_file(str(path)) as file:
        footer = read_footer(file)
    where = str(path) if store is not None else path
    made = None if footer is None else _struck(footer)
    options: dict[str, Any] = {"pre_buffer": pre_buffer, "buffer_size": buffer_size, "page_checksum_verification": True}
    return pq.ParquetFile(where, metadata=made, filesystem=store, **options)


def read_footer(file: Any) -> bytes | None:
    """The metadata at the end of a file; `None` where there are none to be read, of which Arrow says what is wrong."""
    size = file.seek(0, 2)
    if size < len(_MAGIC) + _TAIL_BYTES:
        return None
    file.seek(size - _TAIL_BYTES)
    tail = file.read(_TAIL_BYTES)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > size - len(_MAGIC) - _TAIL_BYTES:
        return None
    file.seek(size - _TAIL_BYTES - length)
    return file.read(length)


def _struck(footer: bytes) -> Any:
    """Metadata to open the file with in place of its own; `None` where its own name no extension type."""
    if _SCHEMA not in footer:
        return None
    if footer.count(_SCHEMA) > 1 or _UNSEEN in footer:
        raise pa.ArrowInvalid(f"its metadata hold {_SCHEMA.decode()!r} more than once")
    unseen = _metadata(footer.replace(_SCHEMA, _UNSEEN))
    written = (unseen.metadata or {}).get(_UNSEEN)
    if written is None:  # the name of a column
        return None
    try:
        schema = b64decode(written, validate=True)
    except binascii.Error:
        return unseen
    if _NAMED not in schema:
        return None
    return _metadata(footer.replace(written, b64encode(schema.replace(_NAMED, _STRUCK))))


def _metadata(footer: bytes) -> Any:
    whole = b"".join((_MAGIC, footer, len(footer).to_bytes(4, "little"), _MAGIC))
    return pq.ParquetFile(pa.BufferReader(whole)).metadata


def names_extension_types(path: Path) -> bool:
    """Whether the schema of a Parquet file or an Arrow stream does. Raises OSError, ArrowInvalid."""
    with path.open("rb") as file:
        if path.suffix == ".parquet":
            footer = read_footer(file)
            return footer is not None and _struck(footer) is not None
        head = file.read(8)
        start = 8 if head[:4] == _CONTINUATION else 4
        file.seek(start)
        return _NAMED in file.read(int.from_bytes(head[start - 4 : start], "little"))


_CONTINUATION = b"\xff\xff\xff\xff"
"""Begins a message of an Arrow stream; then comes the size of its schema, which is not compressed."""
