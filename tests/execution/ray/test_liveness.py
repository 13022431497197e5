"""A process that is busy is told from one that is stopped, sleeps for ever or is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from raypipe.concurrency.deadlines import LOOK_EVERY_S
from raypipe.execution.ray.session import load

BUSY, IDLE = "while True: pass", "import time; time.sleep(600)"


def test_a_conductor_may_report_nothing_for_forty_seconds() -> None:
    load()
    from raypipe.execution.ray.liveness import SILENT_LOOKS

    assert SILENT_LOOKS * LOOK_EVERY_S == 40.0


@contextmanager
def process(code: str) -> Iterator[int]:
    started = subprocess.Popen([sys.executable, "-c", f"print(1, flush=True); {code}"], stdout=subprocess.PIPE)
    try:
        assert started.stdout is not None and started.stdout.readline()
        yield started.pid
    finally:
        started.kill()
        started.communicate(timeout=10)


@pytest.mark.parametrize(("code", "works"), [(BUSY.replace("while", "\nwhile"), True), (IDLE, False)])
def test_a_process_works_that_is_at_work(code: str, works: bool) -> None:
    load()
    from raypipe.execution.ray.liveness import is_at_work

    with process(code) as pid:
        assert is_at_work(pid) == works


def test_a_process_that_is_stopped_or_gone_does_not_work() -> None:
    load()
    from raypipe.execution.ray.liveness import is_at_work

    with process(BUSY.replace("while", "\nwhile")) as pid:
        os.kill(pid, signal.SIGSTOP)
        assert not is_at_work(pid)
    assert not is_at_work(pid)
