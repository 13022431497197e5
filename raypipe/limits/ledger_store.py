"""Keeps a ledger beside its call log, where several runs may write at once: in a file, or as an object of a store.

The file is appended to under a lock of the system, which lasts microseconds. An object cannot be appended to: it is
read, changed, and written where it still stands as it was read. Knows nothing of what the lines say.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raypipe.concurrency.interruption import pause
from raypipe.errors import OutputError
from raypipe.limits.ledger import Book
from raypipe.storage.conditional_object import ConditionalObject, PlainObject, StoredObject
from raypipe.storage.paths import AnyPath, RemotePath, explain_os_error, write_atomically

LEDGER, LOCK = "_ledger.jsonl", "_ledger.lock"
"""Readers of Parquet folders pass over names that begin so."""
_LONGEST_WAIT_S, _LOOK_EVERY_S = 5.0, 0.002
_FOLD_BYTES = 1 << 20
"""A file that is larger, and several times as long as it need be, is written anew."""
_LONGEST_OUTAGE_S, _PAUSE_S = 60.0, 0.5
Change = Callable[[Book], bytes]
"""What is to be added to a book that is as it stands at this moment: whole lines, none to leave it."""


class LedgerFile:
    """The ledger of a call log in a folder of this machine, or of a disk that it has."""

    is_slow = False

    def __init__(self, calls: Path) -> None:
        self._path, self._lock = calls / LEDGER, calls / LOCK
        self._number, self._read_bytes, self._tail = -1, 0, b""
        self.book = Book()

    def exists(self) -> bool:
        return self._path.exists()

    def update(self, change: Change) -> Book:
        """Add what `change` gives, in a moment in which nobody else writes. Raises OutputError.

        The book after that: what all have written.
        """
        try:
            with self._locked():
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW, 0o644)
                try:
                    self._refresh(file)
                    lines = change(self.book)
                    if lines:
                        # A line that somebody was killed in is not gone on with.
                        os.write(file, b"\n" + lines if self._tail else lines)
                        self._refresh(file)
                    self._fold()
                finally:
                    os.close(file)
        except OSError as error:
            raise OutputError(f"the ledger {self._path} cannot be written: {explain_os_error(error)}") from None
        return self.book

    @contextmanager
    def _locked(self) -> Generator[None]:
        lock, deadline = (
            os.open(self._lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644),
            time.monotonic() + _LONGEST_WAIT_S,
        )
        try:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise OSError(f"another run has held {self._lock} for {_LONGEST_WAIT_S:.0f} s") from None
                    time.sleep(_LOOK_EVERY_S)
            yield
        finally:
            os.close(lock)

    def _refresh(self, file: int) -> None:
        """Read what is new; all of it where the file was written anew."""
        status = os.fstat(file)
        if status.st_ino != self._number or status.st_size < self._read_bytes:
            self._number, self._read_bytes, self._tail, self.book = status.st_ino, 0, b"", Book()
        while self._read_bytes < status.st_size:
            news = os.pread(file, status.st_size - self._read_bytes, self._read_bytes)
            self._read_bytes += len(news)
            whole, newline, self._tail = (self._tail + news).rpartition(b"\n")
            self.book.read(whole + newline)

    def _fold(self) -> None:
        if self._read_bytes > _FOLD_BYTES:
            lines = self.book.lines()
            if len(lines) < self._read_bytes / 4:
                write_atomically(self._path, lines)


class LedgerObject:
    """The ledger of a call log in an object store."""

    is_slow = True

    def __init__(self, calls: RemotePath) -> None:
        self._path = calls / LEDGER
        self._object: StoredObject | None = None
        self._version: Any = None
        self._is_known = False
        self.book = Book()

    def exists(self) -> bool:
        return self._path.exists()

    def update(self, change: Change) -> Book:
        """As `LedgerFile.update`; a store that is out of reach is waited for."""
        deadline = time.monotonic() + _LONGEST_OUTAGE_S
        while True:
            try:
                if self._try(change):
                    return self.book
            except OSError as error:
                if time.monotonic() > deadline:
                    problem = f"the ledger {self._path} cannot be written: {explain_os_error(error)}"
                    raise OutputError(problem) from None
                pause(_PAUSE_S)

    def _try(self, change: Change) -> bool:
        """Whether nobody else wrote between the look and the write."""
        if self._object is None:
            try:
                self._object = ConditionalObject(self._path)
                self._object.read()
            except OSError:
                self._object = PlainObject(self._path)
        was_known = self._is_known
        if not was_known:
            found, self.book = self._object.read(), Book()
            self._version = None if found is None else found.version
            self.book.read(b"" if found is None else found.content)
            self._is_known = True
        lines = change(self.book)
        if not lines:  # what others have given back meanwhile is to be seen
            self._is_known = False
            return not was_known
        self.book.read(lines)
        self._version = self._object.write(self.book.lines(), self._version)
        self._is_known = self._version is not None
        return self._is_known


LedgerStore = LedgerFile | LedgerObject


def ledger_at(calls: AnyPath) -> LedgerStore:
    """The ledger of a call log."""
    return LedgerObject(calls) if isinstance(calls, RemotePath) else LedgerFile(calls)
