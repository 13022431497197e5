"""Whoever starts a task or a thread hears of its end, however it ends; and nobody starts one elsewhere."""

from __future__ import annotations

import ast
import asyncio
import threading
from pathlib import Path
from typing import Any, NoReturn

import pytest

from raypipe.concurrency.background import TaskOwner, TaskScope, start_thread, submit, to_raypipe_error
from raypipe.errors import CallError, InfrastructureError, RaypipeError

ROOT = Path(__file__).parents[2]
STARTS = {"create_task", "ensure_future", "run_coroutine_threadsafe", "Thread", "Timer", "start_new_thread"}
"""What starts something that goes on by itself."""
DOOR = "raypipe/concurrency/background.py"
NAMED = {
    # Each of these gives the end of its work away itself, whatever it is.
    "raypipe/cli/interrupts.py": 2,
    "raypipe/execution/local.py": 1,
    "raypipe/execution/ray/driver.py": 2,
    "raypipe/execution/worker/row_runner.py": 1,
}


class Textless(Exception):
    def __str__(self) -> NoReturn:
        raise RuntimeError("no text")


async def raises(error: BaseException) -> None:
    await asyncio.sleep(0)
    raise error


async def told(error: BaseException, *, is_endless: bool = False) -> list[RaypipeError]:
    heard: list[RaypipeError] = []
    owner = TaskOwner(heard.append)
    owner.start(raises(error), "the asking", is_endless=is_endless)
    await asyncio.sleep(0.05)
    await owner.close()
    return heard


@pytest.mark.parametrize("is_endless", [False, True])
@pytest.mark.parametrize(
    "error", [ValueError("odd"), RecursionError(), MemoryError(), asyncio.CancelledError(), Textless()]
)
def test_an_owner_hears_of_whatever_ends_its_task(error: BaseException, is_endless: bool) -> None:
    [heard] = asyncio.run(told(error, is_endless=is_endless))
    assert isinstance(heard, InfrastructureError)
    assert str(heard).startswith("the asking ")


def test_an_owner_is_given_an_error_of_ours_as_it_is() -> None:
    [heard] = asyncio.run(told(CallError("no", kind="auth")))
    assert isinstance(heard, CallError) and heard.kind == "auth"


def test_the_end_of_a_task_is_no_failure_where_it_may_end_and_one_where_it_may_not() -> None:
    async def work() -> list[str]:
        heard: list[RaypipeError] = []
        owner = TaskOwner(heard.append)
        owner.start(asyncio.sleep(0), "a short one")
        owner.start(asyncio.sleep(0), "the watch", is_endless=True)
        dismissed = owner.start(asyncio.sleep(60), "another", is_endless=True)
        owner.start(asyncio.sleep(60), "the last", is_endless=True)
        owner.dismiss(dismissed)
        await asyncio.sleep(0.05)
        await owner.close()
        return [str(error) for error in heard]

    assert asyncio.run(work()) == ["the watch came to an end too early"]


def test_a_task_may_close_its_own_owner() -> None:
    async def work() -> list[RaypipeError]:
        heard: list[RaypipeError] = []
        owner = TaskOwner(heard.append)
        await owner.start(owner.close(), "the one that closes")
        return heard

    assert asyncio.run(asyncio.wait_for(work(), 10)) == []


def test_a_scope_ends_what_it_has_started() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("slow")

    async def work() -> None:
        async with TaskScope() as scope:
            failing = scope.start(raises(ValueError("odd")))
            scope.start(slow())
            await failing

    with pytest.raises(ValueError, match="odd"):
        asyncio.run(work())
    assert ended == ["slow"]


def test_a_thread_tells_what_ends_it() -> None:
    heard: list[RaypipeError] = []

    def broken() -> None:
        raise Textless

    start_thread(broken, "the writer", heard.append).join(10)
    assert [str(error) for error in heard] == ["the writer broke: Textless (its text cannot be made: RuntimeError)"]


def test_what_another_loop_does_is_told_where_it_is_awaited() -> None:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    with pytest.raises(ValueError, match="odd"):
        submit(raises(ValueError("odd")), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def test_an_exception_without_words_is_named() -> None:
    assert str(to_raypipe_error("it", ValueError())) == "it broke: ValueError"
    assert str(to_raypipe_error("it", ValueError("a: b"))) == "it broke: ValueError: a: b"


def starts_in(path: Path) -> list[int]:
    """Lines that start something by themselves."""
    called = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    names = [(func, func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")) for func in called]
    return [func.lineno for func, name in names if name in STARTS]


def test_nothing_is_started_whose_end_nobody_hears() -> None:
    found: dict[str, Any] = {}
    for path in sorted((ROOT / "raypipe").rglob("*.py")):
        name, lines = str(path.relative_to(ROOT)), starts_in(path)
        if name != DOOR and len(lines) > NAMED.get(name, 0):
            found[name] = lines
    assert found == {}, "start it by raypipe.concurrency.background, so that its end is heard"
