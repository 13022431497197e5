"""One row asks: the call log first, then limits and tries; what is answered is logged before the row hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from raypipe.calls.compaction import compact
from raypipe.calls.index import KnownCalls, load_index
from raypipe.calls.segments import CallOrigin
from raypipe.calls.writer import CallLogWriter
from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.contracts.model_pool import ModelPool
from raypipe.errors import CallError, HaltedError, InfrastructureError, Retry, RowError
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.worker.backend import make_backends
from raypipe.execution.worker.call_context import CallContext
from raypipe.execution.worker.caller import NoModel, RowCaller
from raypipe.execution.worker.model_selection import ModelSelector
from raypipe.limits import Caps, RateCoordinator
from tests.loopback import Loopback, serve

ROW = b"0" * 16


def ask(said: str) -> Request:
    return Request(({"role": "user", "content": said},))


async def with_callers(
    folder: Path, llm: LLM | ModelPool, work: Callable[[Callable[..., RowCaller]], Awaitable[Any]], **run: Any
) -> Any:
    """What `work` gives; it is given what makes the caller of a row."""
    context = RunContext(RunOptions(folder), folder / "parts", folder / "calls", "run", **run)
    backends = make_backends(llm, "worker", 1, RateCoordinator(Caps()), Caps())
    log = CallLogWriter(folder / "calls", "run")
    known = KnownCalls(load_index(folder / "calls"), folder / "calls", "run", frozenset())
    calls = CallContext(context, ModelSelector(backends), log, known)
    await calls.open()
    try:
        return await work(lambda row=ROW, step="ask": RowCaller(calls, step, row))
    finally:
        await calls.selector.close()
        log.close()


def called(
    folder: Path, llm: LLM | ModelPool, work: Callable[[Callable[..., RowCaller]], Awaitable[Any]], **run: Any
) -> Any:
    (folder / "calls").mkdir(exist_ok=True)
    made = asyncio.run(asyncio.wait_for(with_callers(folder, llm, work, **run), 60))
    compact(folder / "calls", "run")
    return made


def at(server: Loopback, **options: Any) -> LLM:
    return LLM("vllm-server/m", base_url=server.base_url, **options)


def test_what_was_answered_is_found_in_the_log_and_not_sent_again(tmp_path: Path, server: Loopback) -> None:
    async def work(caller: Callable[..., RowCaller]) -> tuple[list[str], Any]:
        row = caller()
        return [(await row.complete(ask("Hi."))).text for _ in range(2)], row.counts

    first, counts = called(tmp_path, at(server), work)
    assert len({*first}) == 2, "the same request of one row is another call the second time"
    assert (counts.calls_sent, counts.calls_cached) == (2, 0)
    again, counts = called(tmp_path, at(server), work)
    assert again == first
    assert (counts.calls_sent, counts.calls_cached, len(server.requests)) == (0, 2, 2)


def test_calls_of_other_wording_before_a_call_leave_it_its_identity(tmp_path: Path, server: Loopback) -> None:
    async def one(caller: Callable[..., RowCaller]) -> str:
        return (await caller().complete(ask("Hi."))).text

    async def other_first(caller: Callable[..., RowCaller]) -> str:
        row = caller()
        await row.complete(ask("Something else."))
        return (await row.complete(ask("Hi."))).text

    assert called(tmp_path, at(server), one) == called(tmp_path, at(server), other_first)
    assert len(server.requests) == 2


def test_steps_rows_and_samples_have_calls_of_their_own(tmp_path: Path, server: Loopback) -> None:
    async def work(caller: Callable[..., RowCaller]) -> list[str]:
        made = [await caller().complete(ask("Hi."), sample=sample) for sample in (0, 1)]
        made += [await caller(row=b"1" * 16).complete(ask("Hi.")), await caller(step="other").complete(ask("Hi."))]
        return [one.text for one in made]

    assert len({*called(tmp_path, at(server), work)}) == 4


def test_a_row_that_is_redone_takes_the_answer_that_is_on_its_way(tmp_path: Path) -> None:
    async def work(caller: Callable[..., RowCaller]) -> tuple[list[str], int]:
        first, second = caller(), caller()
        answers = await asyncio.gather(first.complete(ask("Hi.")), second.complete(ask("Hi.")))
        return [one.text for one in answers], second.counts.calls_cached

    with serve(answer=lambda _: "once", latency_s=0.1) as server:
        assert called(tmp_path, at(server), work) == (["once", "once"], 1)
        assert len(server.requests) == 1


def test_a_call_is_tried_again_and_counted_as_unanswered(tmp_path: Path) -> None:
    async def work(caller: Callable[..., RowCaller]) -> Any:
        row = caller()
        await row.complete(ask("Hi."))
        return row.counts

    with serve(script=[500, 500]) as server:
        counts = called(tmp_path, at(server, max_tries=3), work)
    assert (counts.calls_sent, counts.calls_unanswered) == (3, 2)


def test_an_error_that_no_other_try_mends_is_the_rows(tmp_path: Path) -> None:
    async def work(caller: Callable[..., RowCaller]) -> None:
        await caller().complete(ask("Hi."))

    with serve(script=[400]) as server, pytest.raises(CallError, match="400"):
        called(tmp_path, at(server), work)
    assert len(server.requests) == 1


def test_a_run_that_counts_only_sends_nothing(tmp_path: Path, server: Loopback) -> None:
    noted: list[CallOrigin] = []

    async def work(caller: Callable[..., RowCaller]) -> bool:
        row = caller()
        with pytest.raises(HaltedError):
            await row.complete(ask("Hi."))
        return row.is_halted

    assert called(tmp_path, at(server), work, unsent=noted.append)
    assert [(one.step, one.row, one.ordinal) for one in noted] == [("ask", ROW, 0)]
    assert server.requests == []


def test_what_is_asked_beside_models_is_logged_like_a_call(tmp_path: Path) -> None:
    done: list[str] = []

    async def search() -> str:
        done.append("searched")
        return "found"

    async def work(caller: Callable[..., RowCaller]) -> str:
        return await caller().recorded("search", {"query": "bees"}, search)

    assert [called(tmp_path, LLM("offline/m"), work) for _ in range(2)] == ["found", "found"]
    assert done == ["searched"]


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (CallError("no such page", "not_found", Retry.NEVER), RowError, 1),
        (InfrastructureError("the network is gone"), HaltedError, 1),
        (CallError("come back tomorrow", "rate_limit", Retry.SLOW_DOWN, after_s=86_400.0), HaltedError, 1),
    ],
)
def test_what_is_asked_beside_models_ends_its_row_or_the_run(
    error: Exception, kind: type[Exception], tries: int, tmp_path: Path
) -> None:
    tried: list[Mapping[str, Any]] = []

    async def search() -> str:
        tried.append({})
        raise error

    async def work(caller: Callable[..., RowCaller]) -> None:
        with pytest.raises(kind):
            await caller().recorded("search", {"query": "bees"}, search)

    called(tmp_path, LLM("offline/m"), work)
    assert len(tried) == tries


def test_a_step_without_a_model_says_so_at_every_use() -> None:
    async def uses() -> list[str]:
        said: list[str] = []
        caller = NoModel("judge")

        async def search() -> str:
            return ""

        for use in (caller("Hi."), caller.complete(ask("Hi.")), caller.recorded("search", {}, search)):
            with pytest.raises(RowError, match="step 'judge' asks a model but has none") as caught:
                await use
            said.append(caught.value.kind)
        return said

    assert asyncio.run(uses()) == ["no_model"] * 3


def test_the_label_is_that_of_the_model_that_answered(tmp_path: Path) -> None:
    async def work(caller: Callable[..., RowCaller]) -> tuple[str, str, Completion]:
        row = caller()
        before, completion = row.label, await row.complete(ask("Hi."))
        return before, row.label, completion

    pool = ModelPool((LLM("offline/one"), LLM("offline/other")))
    before, after, completion = called(tmp_path, pool, work)
    assert before == "offline/one"
    assert after == completion.answered_by
