"""A row's calls: found in the log, shared, not sent, answered by another model; without an executor."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypipe.calls.index import KnownCalls, load_index
from raypipe.calls.segments import CallOrigin
from raypipe.calls.writer import CallLogWriter
from raypipe.contracts.llm import Completion, Request
from raypipe.contracts.model import Payload
from raypipe.contracts.model_pool import make_pool
from raypipe.errors import CallError, HaltedError, Retry
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.worker.backend import Backend, make_backends
from raypipe.execution.worker.call_context import CallContext
from raypipe.execution.worker.caller import RowCaller
from raypipe.execution.worker.model_selection import ModelSelector
from raypipe.limits import Caps, RateCoordinator
from raypipe.models import LLM

ROW = b"r" * 16
ASKED = Request(({"role": "user", "content": "How many?"},))


def with_context(folder: Path, use: Callable[[CallContext], Awaitable[Any]], **changes: Any) -> Any:
    """What `use` gives for the calls of two models, the log of which is in `folder`."""

    async def work() -> Any:
        run = replace(RunContext(RunOptions(folder), folder / "parts", folder, "run"), **changes)
        pool = make_pool([LLM("offline/one", max_tries=1), LLM("offline/other", max_tries=1)])
        selector = ModelSelector(make_backends(pool, "worker", 1, RateCoordinator(Caps()), Caps()))
        log = CallLogWriter(folder, "run")
        context = CallContext(run, selector, log, KnownCalls(load_index(folder), folder, "run", frozenset()))
        await context.open()
        try:
            return await use(context)
        finally:
            await selector.close()
            log.close()

    return asyncio.run(work())


def break_model(backend: Backend) -> None:
    """Let a model answer no call."""

    class Broken:
        def __getattr__(self, name: str) -> Any:
            return getattr(model, name)

        async def complete(self, payload: Payload, key: bytes = b"") -> Completion:
            raise CallError("out of order", "server", Retry.LATER)

    model = backend.model
    broken: Any = Broken()
    backend.model = broken


def test_a_call_in_the_log_is_not_sent(tmp_path: Path) -> None:
    async def use(context: CallContext) -> tuple[str, int, int]:
        caller = RowCaller(context, "ask", ROW)
        context.known.look_back(context.known.epoch + 1)
        text = (await caller.complete(ASKED)).text
        return text, caller.counts.calls_sent, caller.counts.calls_cached

    first = with_context(tmp_path, use)
    assert first[1:] == (1, 0)
    assert with_context(tmp_path, use) == (first[0], 0, 1)


def test_equal_calls_of_one_row_are_different_calls_and_those_of_a_row_begun_twice_are_one(tmp_path: Path) -> None:
    async def use(context: CallContext) -> tuple[int, int]:
        await asyncio.gather(*(RowCaller(context, "ask", ROW).complete(ASKED) for _ in range(2)))
        once = context.total.calls_sent
        caller = RowCaller(context, "ask", b"s" * 16)
        await asyncio.gather(*(caller.complete(ASKED) for _ in range(2)))
        return once, context.total.calls_sent - once

    assert with_context(tmp_path, use) == (1, 2)


def test_a_call_that_is_not_sent_is_noted_once_and_leaves_its_row_unfinished(tmp_path: Path) -> None:
    noted: list[CallOrigin] = []

    async def use(context: CallContext) -> tuple[bool, int]:
        caller = RowCaller(context, "ask", ROW)
        for _ in range(2):
            with pytest.raises(HaltedError):
                await caller.complete(ASKED)
        return caller.is_halted, caller.counts.calls_sent

    assert with_context(tmp_path, use, unsent=noted.append) == (True, 0)
    assert noted == [CallOrigin("ask", ROW, 0, 0)]


def test_a_model_that_fails_is_replaced_by_another_and_the_counts_say_so(tmp_path: Path) -> None:
    async def use(context: CallContext) -> RowCaller:
        break_model(context.selector.backends[0])
        caller = RowCaller(context, "ask", ROW)
        completion = await caller.complete(ASKED)
        assert completion.answered_by == caller.label == "offline/other"
        return caller

    counts = with_context(tmp_path, use).counts
    assert (counts.calls_sent, counts.calls_unanswered) == (2, 1)
    of_one = {"calls_sent": 1, "calls_unanswered": 1, "calls_estimated": 1, "failovers": 1}
    assert counts.by_model["offline/one"].items() >= of_one.items()
    assert counts.by_model["offline/other"]["calls_sent"] == 1


def test_a_row_hears_why_no_model_answered(tmp_path: Path) -> None:
    async def use(context: CallContext) -> int:
        for backend in context.selector.backends:
            break_model(backend)
        caller = RowCaller(context, "ask", ROW)
        with pytest.raises(CallError, match="out of order"):
            await caller.complete(ASKED)
        return caller.counts.calls_unanswered

    assert with_context(tmp_path, use) == 2
