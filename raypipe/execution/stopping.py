"""Stops a run early, in whatever phase it is. Knows nothing of what is done in a phase.

The work of a run is done in a thread, and the thread that began it only waits for its end, for signals and for the
clock. So a stop is noticed whatever the work is busy with: an engine that loads, a loader that is blocked, Ray that
starts. Work of raypipe's own ends at its checkpoints (`interruption`); what cannot end is abandoned.

- The first signal ends a run within 5 s, except for calls in flight: they are paid for, so they are waited for, for
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
from contextlib import contextmanager
from enum import Enum
from typing import Any, Generic, TypeVar

from raypipe.concurrency.background import Caught, start_thread
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
"""How long work that is given up may take to reach a checkpoint."""
_SAY_AFTER_S = 0.3
_AT_ONCE_S = 1.0
_LOOK_EVERY_S = 0.05

_log = logging.getLogger("raypipe.phases")


class Phase(Enum):
    """What a run is busy with, as the user reads it. Each is entered by `Stop.phase`, and by nothing else.

    Tests stop a run in each of them, on both engines.
    """

    READ = "reading the pipeline"
    """Before there is a run: see `log_phase`."""
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

    `say` is called with a sentence for the user about what is waited for.
    """

    def __init__(self, say: Callable[[str], None] | None = None) -> None:
        self.say = say or _say_to_all
        self.is_asked = self.is_at_once = self.is_given_up = False
        """Whether the run is to end; at once; and whether its work is no longer waited for."""
        self.asked_at = self._entered_at = self._busy_at = 0.0
        self.in_flight = 0
        self.error: RaypipeError | None = None
        """What ends the run though nobody asked."""
        self.phases: list[Phase] = []
        self.on_abandon: list[Callable[[], None]] = []
        self.uncut = threading.Lock()
        self._has_run = False

    def ask(self) -> None:
        """The first time: send no new call, finish those in flight. The second time: end at once."""
        if self.is_asked:
            self.is_at_once = True
        else:
            self.asked_at = time.monotonic()
            self.is_asked = True

    def fail(self, error: RaypipeError) -> None:
        """End the run now, with an error: what it waits for will never come."""
        if not self.is_given_up:
            self.error = self.error or error

    @property
    def is_overdue(self) -> bool:
        """Whether it was asked to end so long ago that every worker whose event loop turns knows it."""
        return self.is_asked and time.monotonic() > self.asked_at + _QUIET_S

    @property
    def is_idle(self) -> bool:
        """Whether it is to end, and no call has been in flight for a while."""
        return self.is_asked and time.monotonic() > max(self.asked_at, self._busy_at) + _QUIET_S

    @contextmanager
    def phase(self, phase: Phase) -> Generator[None]:
        """The run is busy with this inside. Raises StoppedError when nothing new is to be begun."""
        self.check()
        self._has_run = self._has_run or phase is Phase.RUN
        self._entered_at, self.phases = time.monotonic(), [*self.phases, phase]
        with log_phase(phase):
            try:
                yield
            finally:
                self._entered_at, self.phases = time.monotonic(), self.phases[:-1]

    def check(self) -> None:
        """Raises StoppedError when the work is to be given up."""
        if self.is_given_up:
            raise StoppedError(ASKED)

    @contextmanager
    def whole(self) -> Generator[None]:
        """A block that is not abandoned halfway. Raises StoppedError instead of beginning it."""
        with self.uncut:
            self.check()
            yield

    def note_calls_in_flight(self, count: int, *, is_known: bool = True) -> None:
        """So many calls are in flight now; they are waited for.

        Not `is_known`: no conductor knows of the stop yet, which for a while counts as if there were calls.
        """
        now = time.monotonic()
        self.in_flight = count
        if count or (not is_known and self.is_asked and now < self.asked_at + _QUIET_S):
            self._busy_at = now

    @contextmanager
    def abandoning(self, end: Callable[[], None]) -> Generator[None]:
        """When the work is abandoned while inside, `end` ends what it has started."""
        self.on_abandon.append(end)
        try:
            yield
        finally:
            self.on_abandon.remove(end)

    def deadline(self) -> float:
        """When the work is to come to its end, by `time.monotonic`."""
        if self.is_at_once:
            return 0.0
        phases, asked_at = self.phases, self.asked_at
        if Phase.RUN in phases or Phase.LOAD in phases:
            return min(asked_at + DRAIN_S, max(asked_at, self._busy_at)) + _IDLE_S
        if self._entered_at <= asked_at:
            return asked_at + (_IDLE_S if self._has_run else 0.0)
        return self._entered_at + (_FINISH_S if Phase.COMMIT in phases or Phase.COMPACT in phases else _IDLE_S)

    def supervise(self, work: Callable[[], T]) -> T:
        """What `work` returns, or raises. Raises StoppedError when it was asked to end and has not ended in time."""
        return _Supervision(self, work).run()


class _Supervision(Generic[T]):
    """The thread that does the work of a run, watched from the thread that began it."""

    def __init__(self, stop: Stop, work: Callable[[], T]) -> None:
        self._stop = stop
        self._work = work
        self._done: list[T] = []
        self._kept = Caught()
        self._has_said = False

    def run(self) -> T:
        """What the work returns, or raises."""
        context = contextvars.copy_context()
        _supervised.append(self._stop)
        try:
            with self._on_signals() as arm:
                thread = start_thread(lambda: context.run(self._do), "raypipe-run", None)
                try:
                    while thread.is_alive():
                        thread.join(_LOOK_EVERY_S)
                        arm()
                        self._look(thread)
                except BaseException:
                    self._abandon(thread)
                    raise
        finally:
            _supervised.remove(self._stop)
        error = self._kept.error
        if error is None:
            return self._done[0]
        if self._stop.is_given_up and not isinstance(error, StoppedError):
            raise StoppedError(self._describe()) from error  # abandoned work misses what was taken from it
        raise error

    def _do(self) -> None:
        with self._kept, interruptible(Interruption(self._stop.check, self._stop.whole, self._stop.say)):
            self._done.append(self._work())

    @contextmanager
    def _on_signals(self) -> Generator[Callable[[], object]]:
        """SIGINT, SIGTERM and SIGHUP ask, where this is the main thread; elsewhere signals are left alone.

        What it yields is to be called now and then: Ray's native library takes SIGTERM for itself when it is started,
        and ends the process 3 s after one.
        """
        if threading.current_thread() is not threading.main_thread():
            yield lambda: None
            return

        def arm() -> dict[signal.Signals, Any]:
            return {kind: signal.signal(kind, lambda number, frame: self._stop.ask()) for kind in stop_signals()}

        before = arm()
        try:
            yield arm
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    def _look(self, thread: threading.Thread) -> None:
        """Say what is waited for, and abandon work that does not end in time. Raises StoppedError."""
        stop = self._stop
        if stop.error is not None:
            raise stop.error
        if not stop.is_asked:
            return
        now = time.monotonic()
        if stop.in_flight and not self._has_said and now - stop.asked_at >= _SAY_AFTER_S:
            self._has_said = True
            calls = f"{stop.in_flight:,} calls" if stop.in_flight > 1 else "1 call"
            stop.say(f"stopping: waiting up to {DRAIN_S:.0f} s for {calls} in flight; Ctrl+C again to end at once")
        deadline = stop.deadline()
        if now >= deadline:
            stop.is_given_up = True
        if stop.is_at_once or now >= deadline + _CUT_S:
            description = self._describe()
            self._abandon(thread)
            if thread.is_alive():
                raise StoppedError(description)

    def _describe(self) -> str:
        phases = self._stop.phases
        doing = phases[-1].value if phases else "between two parts of its work"
        return f"{ASKED} while {doing}; what was completed is in the call log"

    def _abandon(self, thread: threading.Thread) -> None:
        """Let the work end at its next checkpoint, end what it has started, and wait a moment for it."""
        self._stop.is_given_up = True
        deadline = time.monotonic() + _AT_ONCE_S
        if self._stop.uncut.acquire(timeout=_AT_ONCE_S):
            self._stop.uncut.release()
        ending = [start_thread(end, "raypipe-leave", lambda _: None) for end in reversed(self._stop.on_abandon)]
        for one in (*ending, thread):
            one.join(max(0.0, deadline - time.monotonic()))


def stop_signals() -> list[signal.Signals]:
    """Those that end a run. A terminal that is closed does, too, unless that is to be ignored (`nohup`)."""
    kinds = [signal.SIGINT, signal.SIGTERM]
    return kinds if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [*kinds, signal.SIGHUP]


@contextmanager
def log_phase(phase: Phase) -> Generator[None]:
    """A run, or a command that listens for signals by itself (`cli.interrupts`), is busy with this inside."""
    _log.debug("begin %s", phase.name)
    try:
        yield
    finally:
        _log.debug("end %s", phase.name)


_listeners: list[Callable[[str], None]] = []
_supervised: list[Stop] = []


def listen(say: Callable[[str], None]) -> None:
    """Let `say` tell the user what a stop waits for, in all runs of this process that have no `say` of their own."""
    _listeners.append(say)


def _say_to_all(sentence: str) -> None:
    logging.getLogger("raypipe").info("%s", sentence)
    for say in _listeners:
        say(sentence)


def is_supervised() -> bool:
    """Whether a run of this process is going on, which listens for signals by itself."""
    return bool(_supervised)
