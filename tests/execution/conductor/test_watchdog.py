"""Lost rows end the run with a sentence, a frozen worker is replaced, and what is merely slow is waited for."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil
import pytest

from raypipe.errors import InfrastructureError, RaypipeError, ReplicaLostError
from raypipe.execution.conductor import watchdog
from raypipe.execution.conductor.conductor import Snapshot
from raypipe.execution.conductor.queues import StepQueue
from raypipe.execution.conductor.watchdog import Watchdog
from raypipe.execution.conductor.worker_slots import WorkerSlot
from raypipe.execution.context import RunOptions
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, step
from raypipe.steps.tasks import TextGeneration
from tests.acceptance.processes import ROOT
from tests.loopback import serve

LOOK_S = 0.1
LOOK_OF_RUNS_S = 1.0
"""What runs of these tests look at is seen five times as often as by default."""


@dataclass(eq=False)
class Box:
    """The rows with a worker, as far as a watch looks at them."""

    rows: int = 0
    ended_rows: int = 0
    is_full: bool = False


@dataclass(eq=False)
class Played:
    """A worker that has a pulse, none, or a last one."""

    name: str = "pool:0"
    concurrency: int = 1
    has_pulse: bool = True
    held_by: str = ""
    is_gone: bool = False
    seen: str = ""
    pulses: int = 0
    examinations: int = 0

    async def exchange(self, *_: Any) -> Any:
        raise NotImplementedError

    async def halt(self, reason: str) -> None:
        raise NotImplementedError

    async def pulse(self) -> str:
        self.pulses += 1
        if self.is_gone:
            raise ReplicaLostError("it is gone")
        if not self.has_pulse:
            await asyncio.Event().wait()
        return self.held_by

    async def examine(self) -> str:
        self.examinations += 1
        return self.seen


@dataclass
class Watched:
    """One slot, and a watch over it."""

    worker: Played = field(default_factory=Played)
    box: Box = field(default_factory=lambda: Box(rows=3))
    queues: Mapping[str, StepQueue] | None = None
    errors: list[RaypipeError] = field(default_factory=list[RaypipeError])

    def __post_init__(self) -> None:
        window: Any = self.box
        self.slot = WorkerSlot(self.worker, window, "pool")

    async def __aenter__(self) -> Self:
        watch = Watchdog([self.slot], lambda: self.queues, self.errors.append, LOOK_S)
        self.task = asyncio.create_task(watch.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        await asyncio.wait({self.task}, timeout=10)

    async def until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(2000):
            if is_so():
                return
            await asyncio.sleep(LOOK_S / 2)
        raise AssertionError("it never came to that")

    def reply(self, kept: int = 3) -> int:
        return self.slot.note_reply(kept)


def test_a_worker_without_a_pulse_is_given_up_and_its_feeder_is_woken() -> None:
    async def seen() -> Watched:
        async with Watched(Played(has_pulse=False)) as watched:
            watched.reply()
            await watched.until(lambda: watched.slot.lost is not None)
            return watched

    watched = asyncio.run(seen())
    assert "is frozen" in str(watched.slot.lost) and "'pool:0'" in watched.slot.held_up
    assert watched.slot.bell.is_set() and watched.worker.examinations == 1 and watched.errors == []


@pytest.mark.parametrize(
    "worker",
    [
        Played(held_by="step 'y', which has not let the event loop turn for 40 s"),
        Played(has_pulse=False, seen="its process works but lets none of its threads answer"),
    ],
    ids=["its loop is held up", "its process lets no thread answer"],
)
def test_a_worker_that_lives_is_waited_for_and_said(worker: Played) -> None:
    async def seen() -> Watched:
        async with Watched(worker) as watched:
            watched.reply()
            await watched.until(lambda: max(worker.pulses, 4 * worker.examinations) >= 12)
            assert watched.slot.lost is None
            assert watched.slot.held_up == worker.held_by or worker.seen
            watched.reply()
            assert watched.slot.held_up == ""
            return watched

    assert asyncio.run(seen()).errors == []


def test_a_worker_that_waits_for_its_place_is_waited_for() -> None:
    async def seen() -> None:
        worker = Played(has_pulse=False, seen="which waits for its place")
        async with Watched(worker) as watched:
            await watched.until(lambda: worker.examinations >= 3 and watched.slot.held_up == worker.seen)
            assert watched.slot.lost is None

    asyncio.run(seen())


def test_a_worker_that_is_frozen_by_its_first_rows_is_given_up() -> None:
    async def seen() -> Watched:
        async with Watched(Played(has_pulse=False)) as watched:
            await watched.until(lambda: watched.slot.lost is not None)
            return watched

    assert asyncio.run(seen()).errors == []


def test_a_worker_whose_pulse_says_that_it_is_gone_is_given_up() -> None:
    async def seen() -> str:
        async with Watched(Played(is_gone=True)) as watched:
            await watched.until(lambda: watched.slot.lost is not None)
            return str(watched.slot.lost)

    assert asyncio.run(seen()) == "it is gone"


def test_runs_look_every_five_seconds_unless_told_otherwise() -> None:
    """So a worker is frozen after 35 s without a sign of life, and a conductor after 40 s without a report."""
    assert RunOptions(Path("out")).look_every_s == 5.0
    assert (watchdog._FROZEN_AFTER, watchdog._STANDING_LOOKS, watchdog._SILENT_LOOKS) == (7, 7, 180)


def test_a_loop_that_did_not_turn_has_not_looked() -> None:
    async def seen() -> Watched:
        async with Watched(Played(has_pulse=False), Box(), {}) as watched:
            watched.reply()
            for _ in range(4):
                time.sleep(10 * LOOK_S)  # noqa: ASYNC251
                await asyncio.sleep(0)
            return watched

    watched = asyncio.run(seen())
    assert watched.slot.lost is None and watched.errors == []


def test_rows_that_nobody_has_end_the_run() -> None:
    async def seen() -> list[RaypipeError]:
        async with Watched(Played(), Box(rows=0), {}) as watched:
            await watched.until(lambda: bool(watched.errors))
            return watched.errors

    error = asyncio.run(seen())[0]
    assert isinstance(error, InfrastructureError) and "nothing moves any more" in str(error)


def test_rows_that_go_on_ending_are_no_standstill() -> None:
    async def seen() -> list[RaypipeError]:
        async with Watched(Played(), Box(rows=0), {}) as watched:
            for _ in range(60):
                watched.box.ended_rows += 1
                await asyncio.sleep(LOOK_S / 2)
            return watched.errors

    assert asyncio.run(seen()) == []


def slot(rows: int) -> tuple[WorkerSlot, Box]:
    box = Box(rows)
    window: Any = box
    return WorkerSlot(Played(), window, "pool"), box


def test_a_worker_that_says_twice_that_it_lacks_rows_has_lost_them() -> None:
    watched, _ = slot(5)
    said: list[int] = []
    for _ in range(2):
        watched.is_alone = True
        said.append(watched.note_reply(kept=3))
    assert said == [0, 2]


def test_what_a_worker_says_before_it_has_the_rows_counts_for_nothing() -> None:
    watched, _ = slot(5)
    for _ in range(5):
        watched.is_alone = True
        watched.is_alone = False
        assert watched.note_reply(kept=0) == 0


def test_a_worker_that_is_always_found_idle_while_rows_end_is_not_idle() -> None:
    watched, box = slot(100)
    for _ in range(20):
        watched.is_alone = True
        box.rows, box.ended_rows = box.rows - 1, box.ended_rows + 1
        assert watched.note_reply(kept=0) == 0


# Whole runs.


@step(inputs=["number"], outputs=["double"])
async def doubled(row: Values) -> dict[str, Any]:
    await asyncio.sleep(0.01)
    return {"double": 2 * row["number"]}


@step(inputs=["double"], outputs=["again"])
async def blocking(row: Values) -> dict[str, Any]:
    """Holds the event loop for one row, longer than nothing may move: its worker has just said that it has no rows."""
    if row["double"] == 2:
        time.sleep(9)  # noqa: ASYNC251
    return {"again": 2 * row["double"]}


def test_an_event_loop_that_is_held_up_loses_no_row(engine: Any, tmp_path: Path) -> None:
    with Pipeline("held-up") as pipeline:
        seed = LoadDataFromDicts([{"number": number} for number in range(2)], name="seed")
        seed >> doubled("doubled") >> blocking("blocking")
    said: set[str] = set()

    def watch(snapshots: Sequence[Snapshot]) -> None:
        said.update(status.waits_for for snapshot in snapshots for status in snapshot.workers.values())

    result = pipeline.run_with(RunOptions(tmp_path / "out", engine=engine, look_every_s=LOOK_OF_RUNS_S), watch)
    assert sorted(result["blocking"].to_arrow().column("again").to_pylist()) == [0, 4]
    assert any(re.search(r"step 'blocking' \(test_watchdog.py:\d+\), which has not let", words) for words in said), said


@step(outputs=["double"])
async def freezing(row: Values) -> dict[str, Any]:
    """Stops its worker's whole process: once for most rows, whenever it comes for the row `always`."""
    await asyncio.sleep(0.01)
    if row["number"] == 7:
        mark = Path(row["folder"]) / "frozen"
        if row["always"] or not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
    return {"double": 2 * row["number"]}


def frozen_run(tmp_path: Path, always: bool) -> Result:
    with Pipeline("frozen") as pipeline:
        rows = [{"number": number, "folder": str(tmp_path), "always": always} for number in range(40)]
        LoadDataFromDicts(rows, name="seed") >> freezing("freezing")
    options = RunOptions(tmp_path / "out", engine="ray", max_failed_rows=1, look_every_s=LOOK_OF_RUNS_S)
    return pipeline.run_with(options)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_the_rows_of_a_frozen_worker_go_to_another(tmp_path: Path) -> None:
    began = time.monotonic()
    result = frozen_run(tmp_path, always=False)
    assert len(result["freezing"]) == 40
    assert (tmp_path / "frozen").exists()
    assert time.monotonic() - began < 90  # much less than the 180 s after which any silent worker is given up


@step(outputs=["double"])
async def slow(row: Values) -> dict[str, Any]:
    await asyncio.sleep(0.5)
    return {"double": 2 * row["number"]}


@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_frozen_conductor_is_followed_by_another(tmp_path: Path) -> None:
    with Pipeline("slow") as pipeline:
        LoadDataFromDicts([{"number": number} for number in range(400)], name="seed") >> slow("slow")
    with stopped_later("ConductorUDF"):
        result = pipeline.run_with(RunOptions(tmp_path / "out", engine="ray", look_every_s=LOOK_OF_RUNS_S))
    doubles = result["slow"].to_arrow().column("double").to_pylist()
    assert sorted(doubles) == [2 * number for number in range(400)]


@contextmanager
def stopped_later(name: str) -> Iterator[None]:
    """Every worker of this name is stopped, as by SIGSTOP, after a while."""

    def stop() -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if name in " ".join(process.cmdline()):
                    process.suspend()

    stopping = threading.Timer(8.0, stop)
    stopping.start()
    yield
    stopping.join()


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_a_frozen_keeper_of_limits_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    with serve(latency_s=0.2) as server:
        model = LLM("vllm-server/x", base_url=server.base_url, concurrency=4, replicas=2)
        with Pipeline("limited") as pipeline:
            seed = LoadDataFromDicts([{"n": number} for number in range(4000)])
            seed >> TextGeneration("ask", llm=model, template="say {{ n }}")
        said = "keeps the run's limits (has given no answer|is gone)"
        with stopped_later("RateCoordinator"), pytest.raises(InfrastructureError, match=said):
            pipeline.run(tmp_path / "out", engine="ray", max_calls=3000)


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
@pytest.mark.timeout(600)
def test_a_row_that_freezes_its_workers_fails_alone(tmp_path: Path) -> None:
    result = frozen_run(tmp_path, always=True)
    assert len(result["freezing"]) == 39
    [failure] = result.failures.to_arrow().to_pylist()
    assert failure["kind"] == "worker_lost" and "is frozen" in failure["message"]


_SLOW = """
import asyncio, sys
from pathlib import Path
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.execution.context import RunOptions
from raypipe.steps import LoadDataFromDicts, step

@step(outputs=["double"])
async def doubled(row):
    await asyncio.sleep(3)
    return {"double": 2 * row["number"]}

with Pipeline("stopped") as pipeline:
    LoadDataFromDicts([{"number": number} for number in range(40)]) >> doubled("doubled")
print("begun", flush=True)
options = RunOptions(Path(sys.argv[1]), engine="local", look_every_s=1.0)
print(len(pipeline.run_with(options)["doubled"]), flush=True)
"""


def test_a_run_whose_machine_slept_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _SLOW, str(tmp_path / "out")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "begun\n"
        time.sleep(2)
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(10)
        os.kill(process.pid, signal.SIGCONT)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()
    assert (process.returncode, said) == (0, "40\n")
