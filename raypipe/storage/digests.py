"""Tells whether a file is still what was written to it. Knows nothing of what is in it."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

from raypipe.concurrency.interruption import checkpoint
from raypipe.storage.paths import AnyPath

DIGEST_BYTES = 16
_CHUNK_BYTES = 8 << 20


class HashedFile:
    """A file that is written from its beginning to its end, and the digest of what went into it."""

    def __init__(self, file: Any) -> None:
        self._file, self._hash, self._written = file, blake2b(digest_size=DIGEST_BYTES), 0
        self.closed = False

    @property
    def digest(self) -> str:
        """Of all that was written so far, as hexadecimal text."""
        return self._hash.hexdigest()

    def write(self, content: Any) -> int:
        """Write bytes on; their number."""
        self._hash.update(content)
        self._file.write(content)
        size = memoryview(content).nbytes
        self._written += size
        return size

    def tell(self) -> int:
        """How many bytes were written."""
        return self._written

    def flush(self) -> None:
        """Hand over what waits."""
        self._file.flush()

    def close(self) -> None:
        """Nothing is written any more; whoever opened the file closes it."""
        self.closed = True


def digest_of(content: bytes) -> bytes:
    """The digest that `HashedFile` has once this was written."""
    return blake2b(content, digest_size=DIGEST_BYTES).digest()


def is_unchanged(path: AnyPath, digest: str) -> bool:
    """Whether a file has the digest of what was written to it. Raises OSError."""
    found = blake2b(digest_size=DIGEST_BYTES)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            checkpoint()
            found.update(chunk)
    return found.hexdigest() == digest
