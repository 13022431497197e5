"""Hears that a run is to end, in every phase of it. Knows nothing of what is done in a phase.

The work of a run is done in a thread, and the thread that began it only waits for its end, for signals and for the
clock. So a stop is heard whatever the work is busy with: an engine that loads, a loader that is blocked, Ray that
starts. Work of raypipe's own ends at its checkpoints (`interruption`); what cannot end is left behind.

- The first signal ends a run within 5 s, but for calls in flight: they are paid for, so they are waited for, for
  `DRAIN_S`, and no new one is sent. Rows that have ended then are committed.
- The second ends it within 2 s, whatever it does.

Both leave the call log sound; the same command goes on from there.
"""

from __future__ import annotations

import contextvars
import logging
import signal
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from types import FrameType
from typing import TypeVar

from raypipe.concurrency.background import start_thread
from raypipe.concurrency.interruption import Interruption, interruptible
from raypipe.errors import RaypipeError, StoppedError

T = TypeVar("T")

ASKED = "stopped on request"
DRAIN_S = 60.0
"""How long calls in flight are waited for when a run is stopped."""
_IDLE_S = 3.0
"""How long a run goes on, after it was asked to end, in which no call is in flight."""
_FINISH_S = 60.0
"""How long what follows a stop may take, such as to write the rows that have ended."""
_QUIET_S = 2.0
"""How long rows that need no call have to end, in a run that is to end."""
_CUT_S = 0.5
"""How long work that is given up may take to come to a checkpoint."""
_TELL_S = 0.3
_AT_ONCE_S = 1.0
_LOOK_EVERY_S = 0.05

_log = logging.getLogger("raypipe.phases")


class Phase(Enum):
    """What a run is busy with, in its words for the user. Each is entered by `Stop.phase`, and by nothing else.

    Tests stop a run in each of them, on both engines.
    """

    READ = "reading the pipeline"
    """Before there is a run: see `phase_of_command`."""
    HOLD = "taking the run folder"
    COMPACT = "compacting the call log"
    INDEX = "loading the index of the call log"
    START_RAY = "starting Ray"
    JOIN = "joining the cluster"
    SERVE = "starting servers"
    LOAD = "loading models and steps"
    RUN = "running"
    UNLOAD = "unloading models and steps"
    END_RAY = "ending Ray"
    COMMIT = "writing the datasets"


class Stop:
    """Whether a run is to end early, and what it is busy with. Any thread may ask.

    `say` is told, in words for the user, what is waited for.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self._say = say or _tell_all
        self._asked = threading.Event()
        self._at_once = threading.Event()
        self._given_up = threading.Event()
        self._uncut = threading.Lock()
        self._asked_at = self._entered_at = self._busy_at = 0.0
        self._in_flight = 0
        self._has_told = self._has_run = False
        self._phases: list[Phase] = []
        self._leave: list[Callable[[], None]] = []
        self._error: RaypipeError | None = None

    # For whoever wants it to end.

    def ask(self) -> None:
        """The first time: send no new call, finish those in flight. The second time: end at once."""
        if self._asked.is_set():
            self._at_once.set()
        else:
            self._asked_at = time.monotonic()
            self._asked.set()

    def fail(self, error: RaypipeError) -> None:
        """End the run now, with an error: what it waits for will never come."""
        if not self._given_up.is_set():
            self._error = self._error or error

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    @property
    def is_at_once(self) -> bool:
        return self._at_once.is_set()

    @property
    def is_overdue(self) -> bool:
        """Whether it was asked to end so long ago that every worker that turns has heard of it."""
        return self.is_asked and time.monotonic() > self._asked_at + _QUIET_S

    @property
    def is_idle(self) -> bool:
        """Whether it is to end, and no call has been in flight for a while."""
        quiet_since = max(self._asked_at, self._busy_at)
        return self.is_asked and time.monotonic() > quiet_since + _QUIET_S

    # For the work.

    @contextmanager
    def phase(self, phase: Phase) -> Generator[None]:
        """The run is busy with this inside. Raises StoppedError when nothing new is to be begun."""
        self.check()
        self._enter([*self._phases, phase])
        with _told(phase):
            try:
                yield
            finally:
                self._enter(self._phases[:-1])

    def _enter(self, phases: list[Phase]) -> None:
        self._has_run = self._has_run or Phase.RUN in phases
        self._entered_at = time.monotonic()
        self._phases = phases

    def check(self) -> None:
        """Raises StoppedError when the work is to be given up."""
        if self._given_up.is_set():
            raise StoppedError(ASKED)

    def calls_in_flight(self, count: int) -> None:
        """So many are in flight now; they are waited for."""
        self._in_flight = count
        if count:
            self._busy_at = time.monotonic()

    def not_heard_yet(self) -> None:
        """Whoever knows of calls in flight has not heard of the stop: for a while that counts as if there were some."""
        now = time.monotonic()
        if self.is_asked and now < self._asked_at + _QUIET_S:
            self._busy_at = now

    @contextmanager
    def leaving(self, leave: Callable[[], None]) -> Generator[None]:
        """When the work is left behind while inside, `leave` ends what it has started."""
        self._leave.append(leave)
        try:
            yield
        finally:
            self._leave.remove(leave)

    @contextmanager
    def _whole(self) -> Generator[None]:
        with self._uncut:
            self.check()
            yield

    # For the thread that waits.

    @contextmanager
    def _on_signals(self) -> Generator[Callable[[], None]]:
        """SIGINT, SIGTERM and SIGHUP ask, where this is the main thread; elsewhere signals are left alone.

        What comes is to be called now and then: Ray's native library takes SIGTERM for itself when it is started, and
        ends the process 3 s after one.
        """
        if threading.current_thread() is not threading.main_thread():
            yield lambda: None
            return

        def note(number: int, frame: FrameType | None) -> None:
            self.ask()

        def arm() -> None:
            for kind in before:
                signal.signal(kind, note)

        before = {kind: signal.signal(kind, note) for kind in heard_signals()}
        try:
            yield arm
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def supervise(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises. Raises StoppedError when it was asked to end and has not ended in time."""
        done: list[T] = []
        kept = _Kept()
        context = contextvars.copy_context()

        def run() -> None:
            with kept, interruptible(Interruption(self.check, self._whole)):
                done.append(work())

        with self._on_signals() as arm, _supervised():
            thread = start_thread(lambda: context.run(run), "raypipe-run", None)
            try:
                while thread.is_alive():
                    thread.join(_LOOK_EVERY_S)
                    arm()
                    self._look(thread)
            except BaseException:
                self._abandon(thread)
                raise
        if kept.error is None:
            return done[0]
        if self._given_up.is_set() and not isinstance(kept.error, StoppedError):
            raise StoppedError(self._said()) from kept.error  # work that is left behind misses what was taken from it
        raise kept.error

    def _look(self, thread: threading.Thread) -> None:
        """Say what is waited for, and leave work behind that does not end in time. Raises StoppedError."""
        if self._error is not None:
            raise self._error
        if not self.is_asked:
            return
        now = time.monotonic()
        self._tell(now)
        if now >= self._gives_up_at():
            self._given_up.set()
        if self.is_at_once or now >= self._gives_up_at() + _CUT_S:
            said = self._said()
            self._abandon(thread)
            if thread.is_alive():
                raise StoppedError(said)

    def _said(self) -> str:
        doing = self._phases[-1].value if self._phases else "between two parts of its work"
        return f"{ASKED} while {doing}; what was completed is in the call log"

    def _tell(self, now: float) -> None:
        if not self._in_flight or self._has_told or now - self._asked_at < _TELL_S:
            return
        self._has_told = True
        calls = f"{self._in_flight:,} calls" if self._in_flight > 1 else "1 call"
        self._say(f"stopping: waiting up to {DRAIN_S:.0f} s for {calls} in flight; Ctrl+C again to end at once")

    def _gives_up_at(self) -> float:
        """When the work is to come to its end, by `time.monotonic`."""
        if self.is_at_once:
            return 0.0
        phases, asked_at = self._phases, self._asked_at
        if Phase.RUN in phases or Phase.LOAD in phases:
            return min(asked_at + DRAIN_S, max(asked_at, self._busy_at)) + _IDLE_S
        if self._entered_at <= asked_at:
            return asked_at + (_IDLE_S if self._has_run else 0.0)
        return self._entered_at + (_FINISH_S if Phase.COMMIT in phases or Phase.COMPACT in phases else _IDLE_S)

    def _abandon(self, thread: threading.Thread) -> None:
        """Let the work end at its next checkpoint, end what it has started, and wait a moment for it."""
        self._given_up.set()
        deadline = time.monotonic() + _AT_ONCE_S
        if self._uncut.acquire(timeout=_AT_ONCE_S):
            self._uncut.release()
        ending = [start_thread(leave, "raypipe-leave", lambda _: None) for leave in reversed(self._leave)]
        for one in (*ending, thread):
            one.join(max(0.0, deadline - time.monotonic()))


def heard_signals() -> list[signal.Signals]:
    """Those that end a run. A terminal that is closed does, too, unless that is to be ignored (`nohup`)."""
    kinds = [signal.SIGINT, signal.SIGTERM]
    return kinds if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*kinds, signal.SIGHUP]


@contextmanager
def _told(phase: Phase) -> Generator[None]:
    _log.debug("begin %s", phase.name)
    try:
        yield
    finally:
        _log.debug("end %s", phase.name)


def phase_of_command(phase: Phase) -> AbstractContextManager[None]:
    """A command is busy with this inside, which hears signals by itself (`cli.interrupts`)."""
    return _told(phase)


_listeners: list[Callable[[str], None]] = []


def tell_with(say: Callable[[str], None]) -> None:
    """Tell the user by `say`, in all runs of this process that are not told otherwise, what a stop waits for."""
    _listeners.append(say)


def _tell_all(words: str) -> None:
    logging.getLogger("raypipe").info("%s", words)
    for say in _listeners:
        say(words)


_supervising = threading.Semaphore(0)


@contextmanager
def _supervised() -> Generator[None]:
    _supervising.release()
    try:
        yield
    finally:
        _supervising.acquire()


def is_supervised() -> bool:
    """Whether a run of this process goes on, which hears signals by itself."""
    if is_any := _supervising.acquire(blocking=False):
        _supervising.release()
    return is_any


class _Kept:
    """What work raised, for whoever waits for it."""

    error: BaseException | None = None

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        self.error = error
        return True
