"""A run is stopped in every phase that it declares, on both engines: it hears it, and goes on from there.

A new phase without a scenario fails `test_every_phase_has_a_scenario`.
"""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypipe.execution.stopping import Phase
from raypipe.results import Result
from raypipe.storage.lock import RemoteLock
from raypipe.storage.paths import RemotePath
from raypipe.storage.run_folder import RunFolder
from tests.acceptance.cluster import RunningCluster, running_cluster
from tests.acceptance.processes import ROOT, await_end
from tests.loopback import SILENCE, Behaviour, Loopback, serve
from tests.stalling_proxy import stalling

FIRST_S, SECOND_S = 5.0, 2.0
"""Within which a stop is heard, and a second one."""
ALLOWANCE = 2.0
"""A machine of a test is busy with others."""
PROGRAM = Path(__file__).with_name("lingering.py").read_text()


@pytest.fixture(autouse=True)
def hang_ups_are_heard() -> Iterator[None]:
    """A test that is started by `nohup` ignores them, and what it starts would, too."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@dataclass
class Stage:
    """Where a scenario is played."""

    folder: Path
    server: Loopback
    out: str
    stack: ExitStack
    cluster: RunningCluster | None = None
    environment: dict[str, str] = field(default_factory=lambda: dict(os.environ))
    undo: list[Callable[[], None]] = field(default_factory=list[Callable[[], None]])

    @property
    def spec(self) -> str:
        return f"{self.folder}/lingering.py:pipeline"

    @property
    def trace(self) -> Path:
        return self.folder / "trace"

    def command(self, engine: str, *words: str) -> list[str]:
        where = ["--address", self.cluster.address] if self.cluster is not None and engine == "ray" else []
        return [*words, self.spec, "--out", self.out, "--engine", engine, *where]

    def started(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.acceptance.traced", str(self.trace), *arguments],
            cwd=self.folder,
            env=self.environment | {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "key-of-the-tests"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run_folder(self) -> RunFolder:
        """A folder that an earlier run has left."""
        folder = RunFolder(Path(self.out))
        folder.own.mkdir(parents=True)
        (folder.own / "mark").write_text("raypipe run folder 1\n")
        folder.calls.mkdir()
        return folder


def nothing(stage: Stage) -> None:
    """The pipeline lingers by itself."""


def disk_does_not_answer(name: str) -> Callable[[Stage], None]:
    """Reading a file of the run folder takes for ever, as where a network's disk is away."""

    def prepare(stage: Stage) -> None:
        file = stage.run_folder().path / name
        os.mkfifo(file)
        stage.undo.append(file.unlink)

    return prepare


def disk_does_not_answer_at_the_end(stage: Stage) -> None:
    """Reading the manifest takes for ever, once a call was answered."""

    def await_a_call() -> None:
        while not stage.server.requests:
            time.sleep(0.001)
        manifest = Path(stage.out, "manifest.json")
        os.mkfifo(manifest)
        stage.undo.append(manifest.unlink)

    threading.Thread(target=await_a_call, daemon=True).start()


def a_worker_of_an_earlier_run_writes(stage: Stage) -> None:
    folder = stage.run_folder()
    segment = (folder.calls / f"segment-{folder.owner}-{'0' * 32}-a.calls").open("wb")
    fcntl.flock(segment, fcntl.LOCK_EX)
    stage.undo.append(segment.close)


def a_holder_elsewhere_may_live(stage: Stage) -> None:
    place = RemotePath("s3", stage.out.removeprefix("s3://"))
    lock = RemoteLock(place / ".raypipe" / "lock", place, lambda: None, machine="another")
    (place / ".raypipe" / "mark").write_bytes(b"raypipe run folder 1\n")
    lock.take()
    lock._ended.set()  # pyright: ignore[reportPrivateUsage] - it died
    stage.undo.append((place / ".raypipe" / "lock").unlink)


def a_store_answers_no_more(stage: Stage) -> None:
    """Once all calls were answered."""
    proxy = stage.stack.enter_context(stalling(stage.environment["AWS_ENDPOINT_URL"]))
    stage.environment["AWS_ENDPOINT_URL"] = proxy.address

    def stall() -> None:
        while len(stage.server.requests) < 6:
            time.sleep(0.001)
        proxy.flows.clear()
        (stage.folder / "there").touch()

    threading.Thread(target=stall, daemon=True).start()
    stage.undo.append(proxy.flows.set)


def endpoint_is_silent(stage: Stage) -> None:
    usual = stage.server.behaviour
    stage.server.behaviour = Behaviour(shares={SILENCE: 1.0})
    stage.undo.append(lambda: setattr(stage.server, "behaviour", usual))


@dataclass(frozen=True)
class Scenario:
    """How a run is made to stay in a phase."""

    name: str
    phase: Phase
    kind: str = "plain"
    """What lingers of the pipeline."""
    prepare: Callable[[Stage], None] = nothing
    only: str = ""
    """The engine on which it can be played."""
    place: str = "folder"
    ray: str = "cluster"
    """Whose Ray is used: `own`, or that of a cluster, `empty` or with a node."""
    drains: bool = False
    """There are calls in flight, which the first stop waits for."""
    may_end: bool = False
    """It is too short to be caught in it for certain."""
    second_in_full: bool = False
    """Two signals are tried with `-m full` only: the plain run has them for this phase in a scenario that is harder."""


CLUSTERS = {"cluster": "cluster", "empty": "empty_cluster"}
SCENARIOS = [
    Scenario("a pipeline file takes long", Phase.READ, "import"),
    Scenario("a holder elsewhere may live", Phase.HOLD, prepare=a_holder_elsewhere_may_live, place="store", ray="none"),
    Scenario("an earlier worker writes", Phase.COMPACT, prepare=a_worker_of_an_earlier_run_writes, ray="none"),
    Scenario("a disk is away", Phase.INDEX, prepare=disk_does_not_answer("calls/calls-0.parquet"), ray="none"),
    Scenario("Ray starts", Phase.START_RAY, only="ray", ray="own"),
    Scenario("a cluster has no nodes", Phase.JOIN, only="ray", ray="empty"),
    Scenario("a step loads", Phase.LOAD, "load", only="local"),
    Scenario("a step loads in a worker", Phase.RUN, "load", only="ray"),
    Scenario("an endpoint is silent", Phase.RUN, prepare=endpoint_is_silent, drains=True),
    Scenario("a loader is blocked", Phase.RUN, "loader", second_in_full=True),
    Scenario("a batch of Python is slow", Phase.RUN, "batch", second_in_full=True),
    Scenario("a step blocks the loop", Phase.RUN, "loop"),
    Scenario("a parser spins", Phase.RUN, "spin", second_in_full=True),
    Scenario("a step over all rows is slow", Phase.RUN, "global", second_in_full=True),
    Scenario(
        "a store answers no more",
        Phase.RUN,
        "stored",
        a_store_answers_no_more,
        only="local",
        place="store",
        second_in_full=True,
    ),
    Scenario("a step unloads", Phase.UNLOAD, "unload"),
    Scenario("Ray ends", Phase.END_RAY, only="ray", may_end=True),
    Scenario("a disk is away at the end", Phase.COMMIT, prepare=disk_does_not_answer_at_the_end),
]  # fmt: skip

ELSEWHERE = {
    (Phase.START_RAY, "local"): "there is no Ray",
    (Phase.JOIN, "local"): "there is no cluster",
    (Phase.END_RAY, "local"): "there is no Ray",
    (Phase.SERVE, "local"): "servers are started on Ray only",
    (Phase.SERVE, "ray"): "a server needs vLLM: tests/vllm/test_stopping.py stops one that loads",
    (Phase.LOAD, "ray"): "workers are only asked for here; they load while the run goes on: 'a step loads in a worker'",
}
"""Phases that a scenario cannot stay in, and why."""


def cases() -> list[Any]:
    """Scenarios, engines, and how many signals are sent."""
    return [
        pytest.param(
            scenario,
            engine,
            times,
            marks=[
                *([pytest.mark.ray] if engine == "ray" else []),
                *([pytest.mark.full] if times == 2 and scenario.second_in_full else []),
            ],
            id=f"{engine}-{scenario.name.replace(' ', '-')}-{times}",
        )
        for scenario in SCENARIOS
        for engine in ("local", "ray")
        for times in ((2,) if scenario.drains else (1,) if scenario.may_end else (1, 2))
        if scenario.only in ("", engine)
    ]


def test_every_phase_has_a_scenario() -> None:
    played = {(one.phase, engine) for one in SCENARIOS for engine in ("local", "ray") if one.only in ("", engine)}
    assert played | set(ELSEWHERE) == {(phase, engine) for phase in Phase for engine in ("local", "ray")}


@pytest.fixture(scope="module")
def empty_cluster() -> Iterator[RunningCluster]:
    with running_cluster(OPENAI_API_KEY="key-of-the-tests") as running:
        yield running


@pytest.fixture(scope="module")
def cluster(empty_cluster: RunningCluster) -> RunningCluster:
    """The same, with a node. Comes after whatever wants it empty."""
    empty_cluster.order("join")
    return empty_cluster


@pytest.fixture
def stage_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[Scenario, str], Stage]]:
    with ExitStack() as stack:

        def prepared(scenario: Scenario, engine: str) -> Stage:
            out = str(tmp_path / "out")
            if scenario.place == "store":
                out = f"{request.getfixturevalue('bucket')}/out"
            server = stack.enter_context(serve())
            stage = Stage(tmp_path, server, out, stack)
            if engine == "ray" and scenario.ray in CLUSTERS:
                running: RunningCluster = request.getfixturevalue(CLUSTERS[scenario.ray])
                stage.cluster, stage.environment = running, dict(running.environment)
            text = PROGRAM.replace("{folder}", str(tmp_path)).replace("{kind}", scenario.kind)
            (tmp_path / "lingering.py").write_text(text.replace("{url}", server.base_url))
            (tmp_path / "linger").touch()
            scenario.prepare(stage)
            return stage

        yield prepared


def await_phase(stage: Stage, scenario: Scenario, process: subprocess.Popen[str]) -> None:
    """Wait until the run is where it is to be stopped."""
    waits_for_file = scenario.kind != "plain"
    deadline = time.monotonic() + 120
    while True:
        seen = stage.trace.read_text() if stage.trace.exists() else ""
        is_in = re.search(rf"begin {scenario.phase.name}$(?!(.|\n)*end {scenario.phase.name}$)", seen, re.MULTILINE)
        is_there = not waits_for_file or (stage.folder / "there").exists()
        is_asked = not scenario.drains or len(stage.server.requests) > 0
        if is_in and is_there and is_asked:
            break
        if scenario.may_end and process.poll() is not None:
            return
        if process.poll() is not None:
            raise AssertionError((process.returncode, seen, *process.communicate()))
        assert time.monotonic() < deadline, seen
        time.sleep(0.02)
    if not scenario.may_end:
        time.sleep(0.5)
        assert process.poll() is None, (seen, *process.communicate())


def ended(process: subprocess.Popen[str], within_s: float) -> tuple[float, str]:
    """Seconds that it takes to end, and what it says on standard error; it is killed where it takes far longer."""
    began = time.monotonic()
    try:
        _, said = process.communicate(timeout=within_s * 4)
    except subprocess.TimeoutExpired:
        process.kill()
        _, said = process.communicate()
        raise AssertionError(f"it goes on {within_s * 4:.0f} s after it was to end: {said}") from None
    return time.monotonic() - began, said


@pytest.mark.parametrize(("scenario", "engine", "times"), cases())
def test_a_stop_is_heard_and_the_run_goes_on(
    scenario: Scenario, engine: str, times: int, stage_of: Callable[[Scenario, str], Stage]
) -> None:
    stage = stage_of(scenario, engine)
    process = stage.started(*stage.command(engine, "run"))
    family: list[psutil.Process] = []
    try:
        await_phase(stage, scenario, process)
        family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        took_s, said = stopped(scenario, process, times)
    finally:
        process.kill()
        (stage.folder / "linger").unlink()
    assert process.returncode == 4 or (scenario.may_end and process.returncode == 0), (process.returncode, said)
    assert "Traceback" not in said and "***" not in said
    assert took_s < (SECOND_S if times == 2 else FIRST_S) * ALLOWANCE, said
    if process.returncode == 4:
        lines = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "stopped" in lines[0], said
    assert not await_end(family), "something of it is still there"
    for undo in stage.undo:
        undo()
    goes_on(stage, is_cut=times == 2)


def stopped(scenario: Scenario, process: subprocess.Popen[str], times: int) -> tuple[float, str]:
    """Send as many signals as said; the time from the last one, of those that are to end it, to its end."""
    signals = [signal.SIGTERM, signal.SIGINT]
    process.send_signal(signals[0])
    if times == 2:
        if scenario.drains:
            time.sleep(FIRST_S)
            assert process.poll() is None, "calls in flight are waited for"
        else:
            time.sleep(0.3)
        process.send_signal(signals[1])
    took_s, said = ended(process, FIRST_S * ALLOWANCE)
    if scenario.drains:
        assert "calls in flight; Ctrl+C again to end at once" in said
    return took_s, said


def goes_on(stage: Stage, is_cut: bool = False) -> None:
    """The same command comes to its end, and sends nothing again that was answered.

    What was on its way when a run ended at once (`is_cut`) may be answered by the server, and not be heard.
    """
    process = stage.started(*stage.command("local", "run"))
    said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert [leaf["rows"] for leaf in Result(stage.out).manifest["leaves"].values()] in ([6], [1])
    answered = [request.digest for request in stage.server.requests if request.status == 200]
    assert len(set(answered)) == 6
    assert is_cut or len(answered) == 6


@pytest.mark.ray
def test_a_head_that_is_gone_is_said(stage_of: Callable[[Scenario, str], Stage]) -> None:
    scenario = next(one for one in SCENARIOS if one.drains)
    stage = stage_of(replace(scenario, ray="own"), "ray")
    stage.environment["HEAD_GONE_S"] = "8"  # what is shipped is held by tests/execution/ray/test_head.py
    process = stage.started(*stage.command("ray", "run"))
    try:
        await_phase(stage, scenario, process)
        family = psutil.Process(process.pid).children(recursive=True)
        [head] = [one for one in family if "gcs_server" in one.name()]
        head.kill()
        _, said = process.communicate(timeout=90)
    finally:
        process.kill()
    assert process.returncode == 5, said
    assert re.search("error: the head of the Ray cluster at .* is gone", said), said
    assert not await_end(family)
    del stage.environment["HEAD_GONE_S"]
    for undo in stage.undo:
        undo()
    goes_on(stage)


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        # Each command and each signal; one door of the command line hears all signals for all commands.
        pytest.param(command, kind, marks=[] if is_plain else [pytest.mark.full])
        for number, command in enumerate(["plan", "validate", "dry-run", "info"])
        for place, kind in enumerate([signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
        for is_plain in [number % 3 == place]
    ],
)
def test_other_commands_hear_it_too(
    command: str, kind: signal.Signals, stage_of: Callable[[Scenario, str], Stage]
) -> None:
    scenario = SCENARIOS[0]
    stage = stage_of(scenario, "local")
    process = stage.started(command, stage.spec)
    try:
        await_phase(stage, scenario, process)
        process.send_signal(kind)
        took_s, said = ended(process, FIRST_S * ALLOWANCE)
    finally:
        process.kill()
        (stage.folder / "linger").unlink()
    assert process.returncode == 4
    assert took_s < FIRST_S * ALLOWANCE
    assert len(said.splitlines()) == 1 and said.startswith("error: stopped"), said
