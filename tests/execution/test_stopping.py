"""A run hears that it is to end whatever its work is busy with."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from raypipe.concurrency.interruption import checkpoint, pause, uninterrupted
from raypipe.errors import InfrastructureError, StoppedError
from raypipe.execution.stopping import Phase, Stop


def stopped(work: Callable[[Stop], Any], times: int = 1) -> tuple[float, str]:
    """How long it takes from the last signal to the end, and what is said then."""
    stop, asked = Stop(), list[float]()

    def ask() -> None:
        for _ in range(times):
            time.sleep(0.2)
            asked.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Timer(0.2, ask).start()
    with pytest.raises(StoppedError) as caught:
        stop.supervise(lambda: work(stop))
    return time.monotonic() - asked[-1], str(caught.value)


@pytest.mark.parametrize("phase", Phase)
@pytest.mark.parametrize(("times", "most_s"), [(1, 10.0), (2, 4.0)])
def test_work_that_hears_nothing_is_left_behind_in_every_phase(phase: Phase, times: int, most_s: float) -> None:
    ended = threading.Event()

    def work(stop: Stop) -> None:
        with stop.phase(phase):
            ended.wait(60)

    took_s, said = stopped(work, times)
    ended.set()
    assert took_s < most_s
    assert phase.value in said


@pytest.mark.parametrize("phase", [Phase.HOLD, Phase.COMPACT, Phase.INDEX])
def test_work_that_is_not_needed_ends_at_its_next_checkpoint(phase: Phase) -> None:
    seen: list[str] = []

    def work(stop: Stop) -> None:
        with stop.phase(phase):
            try:
                pause(60)
            except StoppedError:
                seen.append("checkpoint")
                raise

    took_s, _ = stopped(work)
    assert took_s < 2.0
    assert seen == ["checkpoint"]


def test_calls_in_flight_are_waited_for_and_that_is_said() -> None:
    said: list[str] = []
    stop = Stop(said.append)

    def work() -> str:
        with stop.phase(Phase.RUN):
            for _ in range(50):
                stop.note_calls_in_flight(3)
                time.sleep(0.1)
        with stop.phase(Phase.COMMIT):
            checkpoint()
            return "committed"

    stop.ask()
    assert stop.supervise(work) == "committed"
    assert len(said) == 1
    assert "up to 60 s for 3 calls in flight; Ctrl+C again" in said[0]


def test_what_must_be_whole_is_done_whole_or_not_begun() -> None:
    stop, steps = Stop(), list[str]()

    def work() -> None:
        with uninterrupted():
            steps.append("begun")
            stop.ask()
            stop.ask()
            time.sleep(0.5)
            steps.append("done")
        with uninterrupted():
            steps.append("begun again")

    with pytest.raises(StoppedError):
        stop.supervise(work)
    assert steps == ["begun", "done"]


def test_a_run_whose_ground_is_gone_ends_with_the_reason() -> None:
    stop, left = Stop(), list[str]()

    def work() -> None:
        with stop.abandoning(lambda: left.append("left")), stop.phase(Phase.RUN):
            stop.fail(InfrastructureError("the head is gone"))
            time.sleep(60)

    with pytest.raises(InfrastructureError, match="the head is gone"):
        stop.supervise(work)
    assert left == ["left"]


def test_what_work_raises_is_raised_and_signals_are_as_they_were() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyError, match="mine"):
        Stop().supervise(lambda: {}["mine"])
    assert signal.getsignal(signal.SIGTERM) is before
