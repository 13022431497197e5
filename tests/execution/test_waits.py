"""Whatever waits for a worker, a node, a thread or another process has a bound, or stands here with what ends it."""

from __future__ import annotations

import ast
import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from raypipe.concurrency.deadlines import run_within
from raypipe.concurrency.loop_lag import HELD_S, LoopLag, works_for

ROOT = Path(__file__).parents[2]
PLACES = [
    *(ROOT / "raypipe" / "execution").rglob("*.py"),
    ROOT / "raypipe" / "calls" / "writer.py",
    ROOT / "raypipe" / "concurrency" / "deadlines.py",
    ROOT / "raypipe" / "concurrency" / "loop_lag.py",
]

_DONE = "the result of an asyncio task, which raises where it is not done"

ENDED_BY = {
    "execution.worker.call_context.CallContext._first_answer": (
        "each of the calls ends by its model's timeout, or with the row"
    ),
    "execution.conductor.conductor.Conductor._serve": (
        "the watchdog marks a worker as lost that does not answer, and rings the bell"
    ),
    "execution.conductor.conductor.Conductor.wait_for_room": "rows that end make room, and the end of the run does",
    "execution.conductor.batch_writer.BatchWriter._resolve": _DONE,
    "execution.conductor.batch_writer.BatchWriter._to_disk": "the disk alone says when",
    "concurrency.deadlines.run_within": _DONE,
    "execution.local._Run._keep": _DONE,
    "execution.local._Run._phase": "a batch is resolved when its rows have ended, and by whatever ends the run",
    "execution.ray.conductors.ConductorUDF.__call__": "as `local._Run._phase`",
    "execution.ray.conductors.ConductorUDF._report_engines": "an actor that is gone raises",
    "execution.ray.reading._read_units": "a task of Ray's: it ends with its owner, which a lost object ends, too",
    "execution.ray.reading._read_units.number": "the actor lives on the node of the run, whose end is its own",
    "execution.ray.liveness.is_working.ask": "its caller bounds it",
    "execution.ray.pools.RemoteWorker.exchange": "the watch takes the worker's pulse while it is silent",
    "execution.ray.pools.RemoteWorker.halt": "ends with the worker, or with the conductor that began it",
    "execution.ray.pools.RemoteWorker.open": "its caller bounds it",
    "execution.ray.pools.RemoteWorker.pulse": "the watch counts for how long it is not answered",
    "execution.ray.replicas.RemoteCoordinator.lease": "the limiter counts for how long it is not answered",
    "execution.conductor.recovery.Recovery.replace": "a row that wants a worker ends it, and the end of the stage",
    "execution.worker.replica.Replica._gather": "inside `asyncio.timeout`",
    "execution.worker.replica.Replica.exchange": "`Mailbox.wait`, which a timer ends after five seconds",
    "calls.writer.CallLogWriter._write": "a thread that waits for work; `close` gives it an empty one",
    "calls.writer.CallLogWriter.close": "a call is in the log before its row goes on: the disk alone says when",
    "execution.conductor.watchdog.Watchdog._judge": _DONE,
    "execution.conductor.watchdog.Watchdog._take_pulse": _DONE,
}
"""What waits without a bound, and what ends it all the same."""

_WITHOUT_ARGUMENTS = {"result", "wait", "join", "acquire", "get"}
_WITHOUT_TIMEOUT = {("ray", "get"), ("ray", "wait"), ("asyncio", "wait")}


def is_unbounded(call: ast.Call) -> bool:
    if not isinstance(call.func, ast.Attribute):
        return False
    owner = call.func.value.id if isinstance(call.func.value, ast.Name) else ""
    if (owner, call.func.attr) in _WITHOUT_TIMEOUT:
        return all(keyword.arg != "timeout" for keyword in call.keywords)
    return call.func.attr in _WITHOUT_ARGUMENTS and not call.args and not call.keywords


def unbounded(node: ast.AST, inside: str) -> Iterator[str]:
    """The functions below that wait for as long as it takes."""
    for child in ast.iter_child_nodes(node):
        name = inside
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{inside}.{child.name}"
        if isinstance(child, ast.Call) and is_unbounded(child):
            yield inside
        if isinstance(child, ast.Await) and ".remote(" in ast.unparse(child):
            yield inside
        yield from unbounded(child, name)


def waits_in(path: Path) -> Iterator[str]:
    module = ".".join(path.relative_to(ROOT / "raypipe").with_suffix("").parts)
    return unbounded(ast.parse(path.read_text()), module)


def test_every_wait_has_a_bound_or_says_what_ends_it() -> None:
    found = {name for path in PLACES for name in waits_in(path)}
    assert found <= ENDED_BY.keys(), "give it a timeout, or say here what ends it"


@pytest.mark.parametrize(
    "waiting",
    ["ray.get(x)", "ray.wait([x])", "thread.join()", "event.wait()", "queue.get()", "lock.acquire()", "work.result()"],
)
def test_a_wait_without_a_bound_is_found(waiting: str) -> None:
    assert list(unbounded(ast.parse(waiting), "here")) == ["here"]
    awaited = ast.parse("async def f():\n    await actor.method.remote(1)")
    assert list(unbounded(awaited, "here")) == ["here.f"]


@pytest.mark.parametrize("bounded", ["ray.get(x, timeout=1)", "thread.join(1.0)", "event.wait(5)", "', '.join(names)"])
def test_a_wait_with_a_bound_is_none(bounded: str) -> None:
    assert list(unbounded(ast.parse(bounded), "here")) == []


def test_what_takes_too_long_is_given_up() -> None:
    async def work() -> str:
        await asyncio.sleep(60)
        return "late"

    with pytest.raises(TimeoutError):
        asyncio.run(run_within(0.1, work()))


def test_an_answer_that_came_while_the_loop_was_held_up_is_not_late() -> None:
    async def work() -> str:
        await asyncio.sleep(0.05)
        time.sleep(1.0)  # noqa: ASYNC251
        await asyncio.sleep(0.01)
        return "in time"

    assert asyncio.run(run_within(0.4, work())) == "in time"


@works_for("name")
async def held_up(name: str) -> None:
    """As a row of step `name` whose code blocks the event loop."""
    await asyncio.to_thread(bool)
    time.sleep(HELD_S + 3)  # noqa: ASYNC251


def test_a_loop_that_is_held_up_says_by_which_step_and_where() -> None:
    async def seen() -> tuple[str, str, str]:
        lag = LoopLag()
        watch = asyncio.create_task(lag.run())
        await asyncio.sleep(0.1)
        before = lag.described("worker 'p:0'")
        during = asyncio.create_task(asyncio.to_thread(later, lag))
        await held_up("judge")
        said = await during
        await asyncio.sleep(1.5)
        watch.cancel()
        return before, said, lag.described("worker 'p:0'")

    def later(lag: LoopLag) -> str:
        time.sleep(HELD_S + 2)
        return lag.described("worker 'p:0'")

    before, during, after = asyncio.run(seen())
    assert before == after == ""
    assert during.startswith("step 'judge' (") and "which has not let the event loop of worker 'p:0' turn" in during
