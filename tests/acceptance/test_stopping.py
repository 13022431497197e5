"""A run that is stopped sends nothing more, keeps what it has, and goes on where it was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import StoppedError
from raypipe.results import Result
from tests.acceptance.chain import CONCURRENCY, answer, asked, chain, topics
from tests.acceptance.processes import ROOT, interrupted, killed, start, table
from tests.books import Row
from tests.loopback import serve

ROWS = 300
LATENCY_S = 0.05


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The table of a run that nothing happens to."""
    with serve(answer=answer) as server:
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        return table(chain(server.base_url, topics(ROWS)).run(out, engine="local"))


def stop_and_go_on(tmp_path: Path, engine: Any, seed: int, undisturbed: list[Row]) -> None:
    """A stop waits for what is in flight, so that nothing at all is sent twice."""
    out, rng = tmp_path / f"out{seed}", random.Random(seed)
    with serve(answer=answer, latency_s=LATENCY_S) as server:
        interrupted(server, out, engine, ROWS, rng.randrange(1, 3 * ROWS))
        manifest = Result(out).manifest
        for name, counts in manifest["steps"].items():
            ends = ("rows_done", "rows_failed", "rows_filtered", "rows_unfinished")
            assert counts["rows_in"] == sum(counts[end] for end in ends), name
        assert set(map(str, table(Result(out)))) <= set(map(str, undisturbed))
        result = chain(server.base_url, topics(ROWS)).run(out, engine=engine)
        counts = Counter(asked(server))
    assert table(result) == undisturbed
    assert (len(counts), counts.total()) == (3 * ROWS, 3 * ROWS)


def kill_and_go_on(tmp_path: Path, engine: Any, seed: int, undisturbed: list[Row]) -> None:
    out, rng = tmp_path / f"out{seed}", random.Random(seed)
    with serve(answer=answer, latency_s=LATENCY_S) as server:
        killed(server, out, engine, ROWS, rng.randrange(1, 3 * ROWS))
        result = chain(server.base_url, topics(ROWS)).run(out, engine=engine)
        counts = Counter(asked(server))
    assert table(result) == undisturbed
    assert counts.total() - len(counts) <= CONCURRENCY


@pytest.mark.parametrize("seed", range(2))
def test_ctrl_c_at_any_moment(engine: Any, seed: int, tmp_path: Path, undisturbed: list[Row]) -> None:
    stop_and_go_on(tmp_path, engine, seed, undisturbed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(2, 20))
def test_ctrl_c_at_many_moments(engine: Any, seed: int, tmp_path: Path, undisturbed: list[Row]) -> None:
    stop_and_go_on(tmp_path, engine, seed, undisturbed)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(20))
def test_kill_9_at_many_moments(engine: Any, seed: int, tmp_path: Path, undisturbed: list[Row]) -> None:
    kill_and_go_on(tmp_path, engine, seed, undisturbed)


def test_ctrl_c_while_everything_starts(engine: Any, tmp_path: Path) -> None:
    with serve(answer=answer, latency_s=LATENCY_S) as server:
        interrupted(server, tmp_path / "out", engine, ROWS, 0)
        assert len(server.requests) <= 3 * ROWS


def test_a_second_ctrl_c_ends_at_once(engine: Any, tmp_path: Path, undisturbed: list[Row]) -> None:
    out = tmp_path / "out"
    with serve(answer=answer, latency_s=30.0) as server:
        took_s = interrupted(server, out, engine, ROWS, CONCURRENCY, times=2)
        assert took_s < 10.0, "calls of 30 s are not waited for"
        sent = len(server.requests)
    assert sent == CONCURRENCY
    with serve(answer=answer) as server:
        result = chain(server.base_url, topics(ROWS)).run(out, engine=engine)
    assert table(result) == undisturbed


def test_sigterm_stops_like_ctrl_c(tmp_path: Path) -> None:
    with serve(answer=answer, latency_s=LATENCY_S) as server:
        process = start(server, tmp_path / "out", "local", ROWS)
        while len(server.requests) < ROWS:
            time.sleep(0.01)
        process.terminate()
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 4
        assert b"stopped on request" in said
        assert server.in_flight == 0
        assert len(server.requests) < 3 * ROWS


def test_outside_the_main_thread_signals_are_left_alone(tmp_path: Path) -> None:
    before, found = signal.getsignal(signal.SIGINT), list[Any]()
    with serve(answer=answer) as server:

        def work() -> None:
            found.append(chain(server.base_url, topics(10)).run(tmp_path / "out", engine="local"))

        thread = threading.Thread(target=work)
        thread.start()
        thread.join(60)
    assert len(found[0]["third"]) == 10
    assert signal.getsignal(signal.SIGINT) is before


def test_a_stop_never_takes_more_rows_away_than_it_brings(tmp_path: Path, undisturbed: list[Row]) -> None:
    out = tmp_path / "out"
    with serve(answer=answer, latency_s=LATENCY_S) as server:
        chain(server.base_url, topics(ROWS)).run(out, engine="local")
        longer = chain(server.base_url, [f"other {number}" for number in range(ROWS)])
        threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(StoppedError, match="of an earlier run"):
            longer.run(out, engine="local")
    assert table(Result(out)) == undisturbed


_ASLEEP = """
import sys, time
from raypipe.errors import StoppedError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, step

IS_ASLEEP = True

@step(inputs=["n"], outputs=["m"])
def doze(row):
    if IS_ASLEEP:
        print("asleep", flush=True)
        time.sleep(600)
    return {"m": row["n"]}

with Pipeline("asleep") as pipeline:
    LoadDataFromDicts([{"n": 1}], name="seed") >> doze("doze")
try:
    pipeline.run(sys.argv[1], engine="local")
except StoppedError as error:
    print(error, flush=True)
    if sys.argv[2:]:
        IS_ASLEEP = False
        print(len(pipeline.run(sys.argv[1], engine="local")["doze"]), flush=True)
"""


def asleep(tmp_path: Path, *words: str, times: int = 1) -> list[str]:
    """What a program says whose step sleeps for ten minutes, and which is interrupted then, to its own end."""
    (tmp_path / "asleep.py").write_text(_ASLEEP)
    command = [sys.executable, str(tmp_path / "asleep.py"), str(tmp_path / "out"), *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "asleep\n"
        for number in range(times):
            time.sleep(0.2 * number)
            process.send_signal(signal.SIGINT)
        said, complaints = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, complaints) == (0, "")
    return said.splitlines()


def test_a_function_that_sleeps_holds_up_no_program_that_ends(tmp_path: Path) -> None:
    [said] = asleep(tmp_path)
    assert said == f"stopped on request; 0 finished rows are in {tmp_path / 'out'}"


@pytest.mark.parametrize("times", [1, 2])
def test_a_program_may_go_on_in_the_same_process(times: int, tmp_path: Path) -> None:
    said, rows = asleep(tmp_path, "again", times=times)
    assert said.startswith("stopped on request")
    assert rows == "1"
