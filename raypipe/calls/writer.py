"""Writes completions to the call log in a thread of its own, so that a slow disk holds up no event loop.

`append` waits until its frame is written; frames of a few milliseconds go in one write. Once a second a second thread
syncs what was written to the disk, and where the log is in an object store, a third sends it there. Knows nothing of
what a completion is for.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue

from raypipe.calls.remote import folder_here, send, send_left
from raypipe.calls.segment_files import SegmentWriter, next_number
from raypipe.calls.segments import CallOrigin, make_frame
from raypipe.concurrency.background import start_thread
from raypipe.contracts.llm import Completion
from raypipe.errors import OutputError, RaypipeError
from raypipe.storage.paths import AnyPath, RemotePath, explain_os_error

_SYNC_EVERY_S = 1.0
_GATHER_S = 0.005
"""Frames go to the thread together: waking it for each took a sixth of the CPU time of a worker."""
_SEND_EVERY_S = 1.0
_LONGEST_OUTAGE_S = 60.0
"""How long a store may fail before the run ends: another machine would ask again what it does not have."""
_Waiting = tuple[bytes, asyncio.Future[None]]


class CallLogWriter:
    """The call log of one worker, for use inside one event loop."""

    def __init__(self, folder: AnyPath, owner: str) -> None:
        self._folder, self._owner = folder, owner
        self._writer: SegmentWriter | None = None
        self._waiting: list[_Waiting] = []
        self._frames: SimpleQueue[list[_Waiting]] = SimpleQueue()
        self._ended = threading.Event()
        self._problem: OutputError | None = None
        self._is_broken = False
        self._writing: list[_Waiting] = []
        self._threads: list[threading.Thread] = []

    def open(self) -> None:
        """Begin a segment, once. Raises OutputError when the folder cannot be written."""
        if self._writer is not None:
            return
        here, number = folder_here(self._folder), None
        if isinstance(self._folder, RemotePath):
            try:
                number = next_number(self._folder, here)
            except OSError as error:
                raise self._unwritable(error) from None
        self._writer = SegmentWriter(here, self._owner, number)
        work = [(self._write, self._writer), (self._sync, self._writer)]
        if isinstance(self._folder, RemotePath):
            work.append((self._send, self._writer))
        self._threads = [
            start_thread(partial(target, writer), f"the call log's {target.__name__.strip('_')} thread", self._fail)
            for target, writer in work
        ]

    def _fail(self, error: RaypipeError) -> None:
        """A thread of the log has ended by a defect: nothing is logged any more, and every `append` raises that."""
        self._problem = OutputError(f"the call log {self._folder} cannot be written: {error}")
        self._is_broken = True
        waiting, self._writing = self._writing, []
        while True:
            if waiting:
                with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    written = [one for _, one in waiting]
                    written[0].get_loop().call_soon_threadsafe(_resolve, written, self._problem)
            try:
                waiting = self._frames.get_nowait()
            except Empty:
                return

    @property
    def is_full(self) -> bool:
        """Whether the disk is full and there is room for calls in flight only."""
        return self._writer is not None and self._writer.is_full

    async def append(
        self, key: bytes, origin: CallOrigin, completion: Completion, latency_s: float, more: str | None = None
    ) -> None:
        """Write one completion through, with JSON kept beside it. Raises OutputError when the disk does not take it."""
        if self._is_broken and self._problem is not None:
            raise self._problem
        loop = asyncio.get_running_loop()
        written = loop.create_future()
        if not self._waiting:
            loop.call_later(_GATHER_S, self._hand_over)
        self._waiting.append((make_frame(key, origin, completion, latency_s, more), written))
        await written

    def _hand_over(self) -> None:
        if self._waiting:
            waiting, self._waiting = self._waiting, []
            self._frames.put(waiting)
            if self._is_broken and self._problem is not None:
                _resolve([written for _, written in waiting], self._problem)

    def _write(self, writer: SegmentWriter) -> None:
        while waiting := self._frames.get():
            self._writing = waiting
            try:
                writer.write(b"".join(frame for frame, _ in waiting))
            except OutputError as error:
                self._problem = error
            loop = waiting[0][1].get_loop()
            loop.call_soon_threadsafe(_resolve, [written for _, written in waiting], self._problem)
            self._writing = []

    def _sync(self, writer: SegmentWriter) -> None:
        while not self._ended.wait(_SYNC_EVERY_S):
            try:
                writer.sync()
            except OutputError as error:
                self._problem = error

    def _send(self, writer: SegmentWriter) -> None:
        """Send what is new to the store, at first also what a worker that died on this machine has left."""
        assert isinstance(self._folder, RemotePath)
        is_first, since = True, time.monotonic()
        while not self._ended.wait(_SEND_EVERY_S):
            try:
                if is_first:
                    send_left(self._folder, self._owner, is_over=False)
                send(writer.stem, self._folder)
                is_first, since = False, time.monotonic()
            except OSError as error:
                if time.monotonic() - since > _LONGEST_OUTAGE_S:
                    self._problem = self._unwritable(error)

    def _unwritable(self, error: OSError) -> OutputError:
        return OutputError(f"the call log {self._folder} cannot be written: {explain_os_error(error)}")

    def close(self) -> None:
        """Write what waits, sync it to the disk, send it to the store, and end the threads. Raises OutputError."""
        if self._writer is None:
            return
        self._hand_over()
        self._frames.put([])
        self._ended.set()
        for thread in self._threads:
            thread.join()
        self._writer.close()
        if isinstance(self._folder, RemotePath):
            try:
                send(self._writer.stem, self._folder)
            except OSError as error:
                raise self._unwritable(error) from None


def _resolve(waiting: list[asyncio.Future[None]], problem: OutputError | None) -> None:
    for written in waiting:
        if written.done():
            continue
        if problem is None:
            written.set_result(None)
        else:
            written.set_exception(problem)
