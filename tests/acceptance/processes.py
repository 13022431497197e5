"""Starts runs in processes of their own, sends them signals, and checks that nothing of them is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from raypipe.results import Result
from tests.books import Row
from tests.loopback import Loopback

ROOT = Path(__file__).parents[2]


def table(result: Result, leaf: str = "third") -> list[Row]:
    return result[leaf].to_arrow().to_pylist()


def await_requests(server: Loopback, count: int, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while len(server.requests) < count:
        assert process.poll() is None, f"the run ended with {process.poll()} after {len(server.requests)} requests"
        assert time.monotonic() < deadline, f"only {len(server.requests)} requests came"
        time.sleep(0.002)


def is_working(process: psutil.Process) -> bool:
    """A zombie only waits for whoever inherited it."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def await_end(family: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those that still work after a minute."""
    deadline = time.monotonic() + 60
    while (left := [one for one in family if is_working(one)]) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def start(
    server: Loopback, out: Path | str, engine: str, rows: int, program: str = "chain", folder: Path = ROOT
) -> subprocess.Popen[bytes]:
    """A program of this folder, in a process group of its own, that works in `folder`."""
    command = [sys.executable, "-m", f"tests.acceptance.{program}", "--url", server.base_url, "--out", str(out)]
    return subprocess.Popen(
        [*command, "--engine", engine, "--rows", str(rows)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def family_of(process: subprocess.Popen[bytes]) -> Sequence[psutil.Process]:
    """All that a process has started so far."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(process.pid).children(recursive=True)
    return []


def killed(server: Loopback, out: Path | str, engine: str, rows: int, count: int, program: str = "chain") -> None:
    """Start a run, kill its whole group after `count` requests, and wait until nothing of it is left.

    Ray's workers are in groups of their own; they notice that their node is gone, work on until then, and log
    what they work on.
    """
    process = start(server, out, engine, rows, program)
    family: Sequence[psutil.Process] = []
    try:
        await_requests(server, count, process)
        family = family_of(process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=60)
        left = await_end(family)
        for one in left:
            one.kill()
    assert not left, f"still there a minute after their driver's death: {left}"


def interrupted(server: Loopback, out: Path, engine: str, rows: int, count: int, times: int = 1) -> float:
    """Start a run, send it SIGINT after `count` requests (0: as soon as it can hear), as often as said.

    It ends with exit code 4, or 0 when it was through before; nothing of it is left and no request comes later.
    Returns the seconds from the last signal to its end.
    """
    process = start(server, out, engine, rows)
    try:
        if count:
            await_requests(server, count, process)
        else:
            assert process.stdout is not None
            process.stdout.readline()
        family = family_of(process)
        for _ in range(times):
            time.sleep(0.2)
            process.send_signal(signal.SIGINT)
        began = time.monotonic()
        said, complaints = process.communicate(timeout=120)
        took_s = time.monotonic() - began
    finally:
        process.kill()
    seen = len(server.requests)
    assert process.returncode in (0, 4), (process.returncode, said, complaints)
    assert complaints == b"", complaints
    left = await_end(family)
    assert not left, f"still there a minute after the end: {left}"
    assert len(server.requests) == seen, "calls were sent after the run had ended"
    return took_s
