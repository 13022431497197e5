"""Threads that never hold up the end of a process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from raypipe.concurrency.threads import DaemonThreads

_ASLEEP = """
import asyncio, time
from raypipe.concurrency.threads import DaemonThreads

async def main():
    asyncio.get_running_loop().set_default_executor(DaemonThreads())
    asyncio.create_task(asyncio.to_thread(time.sleep, 600))
    DaemonThreads(2).submit(time.sleep, 600)
    await asyncio.sleep(0.1)

asyncio.run(main())
"""


def test_a_process_ends_whatever_sleeps_in_them() -> None:
    assert subprocess.run([sys.executable, "-c", _ASLEEP], timeout=60, check=False).returncode == 0


def test_they_give_results_and_whatever_was_raised_and_no_more_threads_than_allowed() -> None:
    threads, names = DaemonThreads(2, "counted"), set[str]()

    def work(number: int) -> int:
        names.add(str(threading.get_ident()))
        time.sleep(0.001)
        return 10 // number

    futures = [threads.submit(work, number) for number in (1, 2, 0, 5)]
    assert [future.result(30) for future in (*futures[:2], futures[3])] == [10, 5, 2]
    with pytest.raises(ZeroDivisionError):
        futures[2].result(30)
    with pytest.raises(SystemExit):
        threads.submit(sys.exit, 3).result(30)
    assert len(names) <= 2
    threads.shutdown()
    with pytest.raises(RuntimeError):
        threads.submit(work, 1)


def test_a_shutdown_cancels_what_waits_when_asked() -> None:
    threads, going = DaemonThreads(1), threading.Event()
    busy, waiting = threads.submit(going.wait, 60), threads.submit(int)
    threads.shutdown(cancel_futures=True)
    assert waiting.cancelled()
    going.set()
    assert busy.result(30)


def test_a_loop_takes_them_for_its_own() -> None:
    async def main() -> str:
        asyncio.get_running_loop().set_default_executor(DaemonThreads(name="of the loop"))
        return await asyncio.to_thread(lambda: threading.current_thread().name)

    assert asyncio.run(main()) == "of the loop"
