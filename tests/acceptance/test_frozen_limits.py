"""The actor that keeps a run's limits is frozen or killed: said, ended within a minute, and gone on with."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.results import Result
from tests.acceptance.chain import asked, chain, topics
from tests.loopback import Behaviour, serve

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_session"), pytest.mark.timeout(300)]
ROWS = 400


def limits_actors() -> set[int]:
    """Processes that keep the limits of runs on the Ray of these tests."""
    found: set[int] = set()
    for one in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it has ended
            if "".join(one.cmdline()[:1]).startswith("ray::RateCoordinator"):
                found.add(one.pid)
    return found


def begin(url: str, out: Path) -> tuple[threading.Thread, list[Any], int]:
    """A run in a thread, what it ends with, and the process of its limits."""
    before, ended = limits_actors(), list[Any]()

    def work() -> None:
        try:
            ended.append(chain(url, topics(ROWS)).run(out, engine="ray", max_calls=10_000))
        except RaypipeError as error:
            ended.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not (new := limits_actors() - before):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return thread, ended, new.pop()


@pytest.mark.parametrize("sign", [signal.SIGSTOP, signal.SIGKILL])
def test_a_run_whose_limits_are_lost_ends_and_goes_on(sign: signal.Signals, tmp_path: Path) -> None:
    with serve(latency_s=0.5) as server:
        thread, ended, process = begin(server.base_url, tmp_path / "out")
        while len(server.requests) < 100:
            time.sleep(0.1)
        os.kill(process, sign)
        began = time.monotonic()
        thread.join(120)
        took_s = time.monotonic() - began
        if sign == signal.SIGSTOP and psutil.pid_exists(process):
            os.kill(process, signal.SIGCONT)
        [error] = ended
        assert isinstance(error, InfrastructureError)
        assert "the run's limits" in str(error) and "run the same command again" in str(error)
        assert took_s < 90
        server.behaviour = Behaviour()
        result = chain(server.base_url, topics(ROWS)).run(tmp_path / "out", engine="local")
        assert (len(result["third"]), result.failed_rows) == (ROWS, 0)
        assert len(asked(server)) == len(set(asked(server))) == 3 * ROWS


def test_a_run_whose_limits_thaw_goes_on(tmp_path: Path) -> None:
    with serve(latency_s=0.5) as server:
        thread, ended, process = begin(server.base_url, tmp_path / "out")
        while len(server.requests) < 100:
            time.sleep(0.1)
        os.kill(process, signal.SIGSTOP)
        time.sleep(15)
        server.behaviour = Behaviour(latency_s=0.02)
        os.kill(process, signal.SIGCONT)
        thread.join(120)
        [result] = ended
        assert isinstance(result, Result)
        assert (len(result["third"]), result.failed_rows, len(server.requests)) == (ROWS, 0, 3 * ROWS)
