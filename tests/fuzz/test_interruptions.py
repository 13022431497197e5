"""A run that is killed, stopped or frozen at any moment, and run again, gives the same rows, and pays nothing twice."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raypipe.errors import OutputError, StoppedError
from raypipe.results import Result
from tests.acceptance.chain import CONCURRENCY, answer, asked, logged, topics
from tests.acceptance.processes import ROOT, await_end, family_of
from tests.fuzz.effort import EFFORT, explore
from tests.fuzz.program import LAST, calls_of, every_barrier
from tests.loopback import Loopback, serve

ROWS = 12
SIGNALS = {
    "kill": [signal.SIGKILL],
    "terminate": [signal.SIGTERM],
    "interrupt": [signal.SIGINT],
    "interrupt twice": [signal.SIGINT, signal.SIGINT],
    "interrupt and kill": [signal.SIGINT, signal.SIGKILL],
    "hang up": [signal.SIGHUP],
    "freeze": [signal.SIGSTOP, signal.SIGCONT],
    "freeze and kill": [signal.SIGSTOP, signal.SIGKILL],
}
END_S = 60.0


def start(server: Loopback, out: Path, engine: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.fuzz.program", "--url", server.base_url, "--out", str(out)]
    return subprocess.Popen(
        [*command, "--engine", engine, "--rows", str(ROWS)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def disturb(server: Loopback, out: Path, engine: str, how: str, after: int, pause_s: float) -> tuple[int, bytes]:
    """Start a run, and send it signals after so many requests and a pause; its exit code and what it complained of."""
    since = len(server.requests)
    process = start(server, out, engine)
    family: Sequence[Any] = []
    try:
        assert process.stdout is not None
        process.stdout.readline()
        deadline = time.monotonic() + 120
        while process.poll() is None and len(server.requests) - since < after and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(pause_s)
        family = family_of(process)
        for number, kind in enumerate(SIGNALS[how]):
            time.sleep(0.3 * bool(number))
            if process.poll() is None:
                os.killpg(process.pid, kind) if kind == signal.SIGKILL else process.send_signal(kind)
        _, complaints = process.communicate(timeout=END_S)
    except subprocess.TimeoutExpired:
        raise AssertionError(f"no end within {END_S:.0f} s of {how}") from None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        left = await_end(family)
        for one in left:
            one.kill()
    assert not left, f"still there a minute later: {left}"
    return process.returncode, complaints


def final_rows(result: Result) -> list[dict[str, Any]]:
    return result[LAST].to_arrow().to_pylist()


class Reference:
    """What an undisturbed run gives, made once."""

    rows: list[dict[str, Any]] | None = None

    @classmethod
    def of(cls, folder: Path) -> list[dict[str, Any]]:
        if cls.rows is None:
            with serve(answer=answer) as server:
                cls.rows = final_rows(every_barrier(server.base_url, topics(ROWS)).run(folder, engine="local"))
                assert len(server.requests) == calls_of(ROWS)
        return cls.rows


def assert_survives(folder: Path, engine: str, disturbances: Sequence[tuple[str, int, int]]) -> None:
    wanted = Reference.of(folder / "whole")
    out = folder / "out"
    with serve(answer=answer, latency_s=0.02, latency_sigma=0.8) as server:
        kills = 0
        for how, after, pause_ms in disturbances:
            code, complaints = disturb(server, out, engine, how, after, pause_ms / 1000)
            is_killed = signal.SIGKILL in SIGNALS[how]
            kills += 1
            assert code in ((-signal.SIGKILL, 0, 4) if is_killed else (0, 4)), (how, code, complaints)
            assert is_killed or complaints == b"", complaints
        if engine == "local":
            known = logged(out / "calls") if (out / "calls").exists() else set[str]()
            seen = len(server.requests)
        result = every_barrier(server.base_url, topics(ROWS)).run(out, engine=engine)
        counts = Counter(asked(server))
        if engine == "local":
            again = set(asked(server, since=seen)) & known
            assert not again, f"{len(again)} calls in the log were sent again"
    assert final_rows(result) == wanted
    assert len(counts) == calls_of(ROWS)
    assert counts.total() - len(counts) <= kills * CONCURRENCY, "more was sent again than was in flight"


DISTURBANCES = st.lists(
    st.tuples(st.sampled_from(sorted(SIGNALS)), st.integers(0, calls_of(ROWS)), st.sampled_from([0, 1, 10, 100, 700])),
    min_size=1,
    max_size=3,
)


@EFFORT
@pytest.mark.timeout(900)
def test_a_disturbed_run_on_local(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(DISTURBANCES)
    def check(disturbances: list[tuple[str, int, int]]) -> None:
        folder = tmp_path_factory.mktemp("disturbed")
        assert_survives(folder, "local", disturbances)
        shutil.rmtree(folder)

    explore(check, 4, effort)


@pytest.mark.ray
@EFFORT
@pytest.mark.timeout(900)
def test_a_disturbed_run_on_ray(effort: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    @given(DISTURBANCES.map(lambda some: some[:1]))
    def check(disturbances: list[tuple[str, int, int]]) -> None:
        folder = tmp_path_factory.mktemp("disturbed")
        assert_survives(folder, "ray", disturbances)
        shutil.rmtree(folder)

    explore(check, 1, min(effort, 30))


@pytest.fixture
def small_disk(tmp_path: Path) -> Any:
    """A function that mounts a file system of so many bytes, or skips where only root may."""
    mounted: list[Path] = []

    def mount(size_bytes: int) -> Path:
        folder = tmp_path / f"disk {len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root may mount a small file system")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=False)


@EFFORT
def test_a_full_disk(effort: int, small_disk: Any, tmp_path: Path) -> None:
    """Wherever the disk is full, the run says so, and with room it goes on and repeats nothing."""

    @given(st.integers(0, 400))
    def check(pages: int) -> None:
        disk = small_disk(2_200_000 + 4096 * pages)
        wanted = Reference.of(tmp_path / "whole")
        with serve(answer=answer) as server:
            pipeline = every_barrier(server.base_url, topics(ROWS))
            said = ""
            try:
                pipeline.run(disk / "out", engine="local")
            except (OutputError, StoppedError) as caught:
                said = str(caught)
            assert "\n" not in said
            subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
            assert final_rows(pipeline.run(disk / "out", engine="local")) == wanted
            counts = Counter(asked(server))
        assert (len(counts), counts.total()) == (calls_of(ROWS), calls_of(ROWS)), "something is repeated"

    explore(check, 6, min(effort, 20))
