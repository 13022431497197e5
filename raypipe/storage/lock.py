"""Holds a folder in an object store for one run, where no system lets go for a process that ended.

The lock is an object that names its holder and is written anew every few seconds. Each write is conditional: it is
created where none stands, and replaced only in the version that was read last, so that of several runs that take it at
once the store lets one have it. A run that finds one which does not change, or whose process of this machine is gone,
takes it over; a run that finds another's in place of its own has lost it.
"""

from __future__ import annotations

import logging
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
from raypipe.errors import OutputError
from raypipe.storage.conditional_object import (
    ConditionalObject,
    PlainObject,
    StoredObject,
    Versioned,
    why_not_conditional,
)
from raypipe.storage.outages import outlasting
from raypipe.storage.paths import RemotePath, explain_os_error

_LEAVE_S = 10.0
"""How long a write that does not get through may hold up the end of a run."""
_PLAINLY = "the folder %s is locked without conditional writes (%s): start no second run into it at the same moment"


@dataclass(frozen=True, slots=True)
class LeaseTiming:
    """How often a holder writes, and how it is watched. Seconds."""

    heartbeat_s: float = 4.0
    expires_s: float = 20.0
    """A holder that has not written for so long is taken for dead."""
    poll_s: float = 0.5


class RemoteLock:
    """The lock of one run on `folder`, as an object at `path`; `lost` is called when another run has it."""

    def __init__(
        self,
        path: RemotePath,
        folder: RemotePath,
        lost: Callable[[], None],
        timing: LeaseTiming = LeaseTiming(),
        machine: str = "",
    ) -> None:
        """`machine`: what this one is called among holders; by default what no other is."""
        self._path, self._folder, self._lost = path, folder, lost
        self._timing, self._machine = timing, machine or _this_machine()
        self._object: StoredObject = PlainObject(path)
        self._token, self._version, self._beats = uuid4().hex, None, 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> None:
        """Hold it from now on. Raises OutputError when another run does; OSError."""
        try:
            self._object = ConditionalObject(self._path)
            outlasting(self._claim, self._folder)
            problem = why_not_conditional(self._object, self._content())
        except OSError as error:
            problem = explain_os_error(error)
        if problem is not None:
            self._object = PlainObject(self._path)
            self._claim()
            logging.getLogger("raypipe").warning(_PLAINLY, self._folder, problem)
        self.check()
        self._thread = start_thread(self._beat, "the lock's heartbeat", lambda error: self._lost())

    def _claim(self) -> None:
        """Write it where none stands, or in place of one whose holder is gone. Raises OutputError; OSError."""
        found = self._object.read()
        holder = {} if found is None else orjson.loads(found.content)
        is_here = holder.get("machine") == self._machine
        is_gone = is_here and _start_time(holder["process"]) != holder["began"]
        if found is not None and not is_gone and holder["token"] != self._token:
            if is_here:
                raise self._in_use(holder)
            found = self._await_silence(found)
        self._version = None if found is None else found.version
        if not self._write():
            raise self._in_use(self._holder() or {})

    def _await_silence(self, found: Versioned) -> Versioned | None:
        """What stands there once the holder has not written for long; it is refused as soon as it does."""
        deadline = time.monotonic() + self._timing.expires_s
        while time.monotonic() < deadline:
            pause(self._timing.poll_s)
            now = self._object.read()
            if now is None:
                return None
            if now.content != found.content:
                raise self._in_use(orjson.loads(now.content))
        return found

    def check(self) -> None:
        """Raises OutputError when another run has it, OSError."""
        holder = self._holder()
        if holder is None or holder["token"] != self._token:
            raise self._in_use(holder or {})

    def release(self) -> None:
        """Let go of it, if it is still this run's."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(_LEAVE_S)
        with suppress(OSError):  # it is silent from now on, which is as good
            if self._version is not None and self._write():  # nobody takes over what was written just now
                self._path.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(self._timing.heartbeat_s):
            with suppress(OSError):  # the next one may get through
                if not self._write():
                    self._lost()
                    return

    def _write(self) -> bool:
        """Whether the lock was written in place of the version that was read or written last."""
        self._beats += 1
        self._version = self._object.write(self._content(), self._version)
        if self._version is None:
            # A write whose answer was lost is sent again, and finds itself.
            found = self._object.read()
            if found is not None and orjson.loads(found.content)["token"] == self._token:
                self._version = found.version
        return self._version is not None

    def _content(self) -> bytes:
        pid = os.getpid()
        me = {"token": self._token, "host": socket.gethostname(), "machine": self._machine}
        return orjson.dumps(me | {"process": pid, "began": _start_time(pid), "beats": self._beats})

    def _holder(self) -> dict[str, Any] | None:
        found = self._object.read()
        return None if found is None else orjson.loads(found.content)

    def _in_use(self, holder: dict[str, Any]) -> OutputError:
        who = f"process {holder['process']} on {holder['host']}" if holder else "another process"
        return OutputError(f"the output folder {self._folder} is in use by {who}; wait for it or stop it")


def _start_time(pid: int) -> float | None:
    """When a process of this machine was started; `None` where it is none, or has ended."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.NoSuchProcess:
        return None


def _this_machine() -> str:
    """This machine since it was started, as far as its processes see one another: containers are machines, too."""
    seen = [socket.gethostname()]
    with suppress(OSError):
        seen += [Path("/proc/sys/kernel/random/boot_id").read_text(), os.readlink("/proc/self/ns/pid")]
    return blake2b("\n".join(seen).encode(), digest_size=8).hexdigest()
