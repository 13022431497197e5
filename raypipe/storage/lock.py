"""I hold a folder in an object store for one run, where no system lets go for a process that ended.

The lock is an object that names its holder and is written anew every few seconds. Whoever finds one that does not
change, or whose process of this machine is gone, takes it over; whoever finds another's in place of his own lost it.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson

from raypipe.concurrency.background import start_thread
from raypipe.concurrency.interruption import pause
from raypipe.errors import OutputError, RaypipeError
from raypipe.storage.paths import RemotePath

_LEAVE_S = 10.0
"""How long a write that does not get through may hold up the end of a run."""


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How often a holder writes, and how it is watched."""

    beat_s: float = 4.0
    silent_s: float = 20.0
    """A holder that has not written for so long is taken for dead."""
    look_s: float = 0.5


class RemoteLock:
    """The lock of one run on `folder`, as an object at `place`; `lost` is called when another run has it."""

    def __init__(
        self,
        place: RemotePath,
        folder: RemotePath,
        lost: Callable[[], None],
        rhythm: LeaseTiming = LeaseTiming(),
        machine: str = "",
    ) -> None:
        """`machine`: what this one is called among holders; by default what no other is."""
        self._place, self._folder, self._lost = place, folder, lost
        self._rhythm, self._machine = rhythm, machine or _this_machine()
        self._token = uuid4().hex
        self._beats = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Hold it from now on. Raises OutputError when another run does; OSError."""
        found = self._found()
        if found is not None and not self._is_gone(found):
            if self._is_here(found):
                raise self._in_use(found)
            self._await_silence(found)
        self._write()
        self.check()
        self._thread = start_thread(self._beat, "the lock's beat", self._broke)

    def _await_silence(self, found: dict[str, Any]) -> None:
        """Return when the holder has not written for long; it is refused as soon as it does."""
        deadline = time.monotonic() + self._rhythm.silent_s
        while time.monotonic() < deadline:
            pause(self._rhythm.look_s)
            now = self._found()
            if now is None:
                return
            if now != found:
                raise self._in_use(now)

    def check(self) -> None:
        """Raises OutputError when another run has it."""
        found = self._found()
        if found is None or found["token"] != self._token:
            raise self._in_use(found or {})

    def release(self) -> None:
        """Let go of it, if it is ours still."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)
        with suppress(OSError):  # it is silent from now on, which is as good
            found = self._found()
            if found is not None and found["token"] == self._token:
                self._place.unlink(missing_ok=True)

    def _broke(self, error: RaypipeError) -> None:
        """A lock that beats no more is soon taken by others."""
        self._lost()

    def _beat(self) -> None:
        while not self._ended.wait(self._rhythm.beat_s):
            with suppress(OSError):  # the next one may get through
                try:
                    self.check()
                except OutputError:
                    self._lost()
                    return
                self._write()

    def _write(self) -> None:
        self._beats += 1
        me = {"token": self._token, "host": socket.gethostname(), "machine": self._machine}
        own = {"process": os.getpid(), "began": _began(os.getpid()), "beats": self._beats}
        self._place.write_bytes(orjson.dumps(me | own))

    def _found(self) -> dict[str, Any] | None:
        try:
            return orjson.loads(self._place.read_bytes())
        except FileNotFoundError:
            return None

    def _is_here(self, holder: dict[str, Any]) -> bool:
        """Whether it is a process of this machine."""
        return holder["machine"] == self._machine

    def _is_gone(self, holder: dict[str, Any]) -> bool:
        """Whether it is known to have ended."""
        return self._is_here(holder) and _began(holder["process"]) != holder["began"]

    def _in_use(self, holder: dict[str, Any]) -> OutputError:
        who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
        return OutputError(f"the output folder {self._folder} is in use by {who}; wait for it or stop it")


def _began(process: int) -> float | None:
    """When a process of this machine was started; `None` where it is none, or has ended."""
    import psutil

    try:
        found = psutil.Process(process)
        return None if found.status() == psutil.STATUS_ZOMBIE else found.create_time()
    except psutil.NoSuchProcess:
        return None


def _this_machine() -> str:
    """This machine since it was started, as far as its processes see one another: containers are machines, too."""
    seen = [socket.gethostname()]
    with suppress(OSError):
        seen += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return blake2b("\n".join(seen).encode(), digest_size=8).hexdigest()
