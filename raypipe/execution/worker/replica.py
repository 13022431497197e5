"""Is one worker: takes rows from conductors and gives them what the rows became.

The same inside a Ray actor and in this process. Knows nothing of how a row is worked on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

from raypipe.calls.index import CallIndex, KnownCalls
from raypipe.calls.writer import CallLogWriter
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, change_members
from raypipe.contracts.step import Step
from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.execution.context import RunContext
from raypipe.execution.row_identity import FIRST_VERSION
from raypipe.execution.wire import FLUSH_S, Answer, Chunk, Reply, Sender, WorkerStatus
from raypipe.execution.worker.backend import Backend, make_backends
from raypipe.execution.worker.boundary import Boundary, close_step, describe
from raypipe.execution.worker.call_context import CallContext
from raypipe.execution.worker.mailbox import Mailbox
from raypipe.execution.worker.model_selection import ModelSelector
from raypipe.execution.worker.row_runner import RowRunner
from raypipe.limits import LeaseSource
from raypipe.plan.plan import Pool


@dataclass(frozen=True)
class ReplicaSetup:
    """What a replica is made from; plain data that travels to its worker."""

    name: str
    pool: Pool
    steps: Mapping[str, Step]
    """The steps that work here, the deepest first."""
    run: RunContext

    def reached(self, llm: ModelOrPool) -> ModelOrPool:
        """The model with the addresses of the servers that were started for it."""

        def at_its_server(one: LLM) -> LLM:
            address = self.run.servers.get(one.server_key) if one.serve else None
            return one if address is None else one.model_copy(update={"base_url": address})

        return change_members(llm, at_its_server)


class Replica:
    """One worker of a pool, bound to one model."""

    def __init__(self, setup: ReplicaSetup, index: CallIndex, log: CallLogWriter, coordinator: LeaseSource) -> None:
        self.name = setup.name
        self.concurrency = setup.pool.rows
        self.setup = setup
        self._opened: dict[str, Step] = {}
        self._mailboxes: dict[str, Mailbox] = {}
        """By the names of their senders."""
        self._stages: set[int] = set()
        """The stages whose conductors have sent rows."""
        self._context = None if setup.pool.llm is None else _make_context(setup, index, log, coordinator)
        self.runner = RowRunner(setup.name, setup.pool, setup.steps, self._context, self._mailboxes)

    async def open(self) -> None:
        """Get model and steps ready. Raises RaypipeError when the run cannot go on."""
        for name, step in self.setup.steps.items():
            step.keep_artifacts_in(self.setup.run.artifacts)
            with Boundary() as boundary:
                step.open()
            if isinstance(boundary.error, RaypipeError):
                raise boundary.error
            if boundary.error is not None:
                raise InfrastructureError(f"step {name!r} cannot be loaded: {describe(boundary.error)}") from None
            self._opened[name] = step
        if self._context is not None:
            await self._context.open()

    async def halt(self, reason: str) -> None:
        """Send no call any more. Calls in flight are finished; a row that needs another is left as it is."""
        if self._context is not None:
            self._context.selector.halt(reason)
        for mailbox in self._mailboxes.values():
            mailbox.notify()

    async def pulse(self) -> str:
        """Always empty: the caller lives in the same event loop."""
        return ""

    examine = pulse

    async def close(self) -> None:
        """Stop working; rows that have not ended are dropped."""
        await self.runner.close()
        if self._context is not None:
            await self._context.selector.close()
        while self._opened:
            close_step(*self._opened.popitem())

    async def exchange(self, sender: Sender, chunks: list[Chunk], flush_s: float = FLUSH_S) -> Reply:
        """Take new rows of `sender`; come back when some of its rows ended, at the latest after 5 s.

        Answers are gathered for `flush_s` seconds, if there are rows to work on meanwhile.
        A later exchange of the same sender ends an earlier one that still waits.
        """
        mailbox = self._mailboxes.get(sender.name)
        if mailbox is None:
            self._forget_predecessor(sender.stage)
            mailbox = self._mailboxes[sender.name] = Mailbox(
                self.setup.steps, self.setup.run.options.bounds.batch_bytes
            )
        if self._context is not None and chunks:
            self._context.known.look_back(max(chunk.epoch for chunk in chunks))
        for chunk in chunks:
            self.runner.backlog.add(sender.name, chunk)
            self.runner.begin(1)
        if not await mailbox.wait():
            return self._reply(sender.name, [])
        if self.runner.tasks and self.runner.fatal is None:
            await self._gather(flush_s)
        if self.runner.fatal is not None:
            raise self.runner.fatal
        return self._reply(sender.name, mailbox.take())

    def _reply(self, sender: str, answers: list[Answer]) -> Reply:
        """The answers, and how many rows of the sender are still here."""
        backlog = self.runner.backlog
        held = backlog.count(None if len(self._mailboxes) == 1 else sender)
        return Reply(answers, self.status(), held + self._mailboxes[sender].rows)

    async def _gather(self, flush_s: float) -> None:
        """Wait for more answers: for a moment, and up to `flush_s` as long as rows wait to be worked on."""
        runner = self.runner
        for _ in range(round(flush_s / FLUSH_S)):
            runner.idle.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(FLUSH_S):
                    await runner.idle.wait()
            is_fed = runner.backlog.next_step() or len(runner.backlog.begun) > self.concurrency
            if runner.fatal is not None or runner.has_news or not is_fed:
                runner.has_news = False
                return

    def _forget_predecessor(self, stage: int) -> None:
        """A second conductor of one stage redoes what the first, which is gone, had here."""
        if stage in self._stages:
            self.runner.backlog.clear()
            if self._context is not None:
                self._context.known.look_back(self._context.known.epoch + 1)
        self._stages.add(stage)

    def status(self) -> WorkerStatus:
        """The state of this worker, for progress."""
        runner, context = self.runner, self._context
        held, (oldest_s, oldest_step) = runner.backlog.count(), runner.backlog.oldest()
        if context is None:
            there, why = len(runner.tasks), runner.halted_for
            return WorkerStatus(there, held=held, oldest_s=oldest_s, halted_for=why, oldest_step=oldest_step)
        total, selector = context.total, context.selector
        return WorkerStatus(
            selector.in_flight,
            total.calls_sent,
            total.calls_cached,
            total.input_tokens,
            total.output_tokens,
            held,
            selector.waits_for,
            oldest_s,
            selector.halted_for,
            selector.engine_figures(),
            oldest_step,
        )


def _make_context(setup: ReplicaSetup, index: CallIndex, log: CallLogWriter, coordinator: LeaseSource) -> CallContext:
    """What the rows of a worker share when they call models: each model once, whichever steps ask it."""
    asked: list[tuple[ModelOrPool, list[Backend]]] = []
    for llm in setup.pool.llms:
        beside = asked[0][1][0] if asked else None
        options = (setup.name, setup.pool.most, coordinator, setup.run.options.caps, beside)
        backends = make_backends(setup.reached(llm), *options)
        if setup.run.identity == FIRST_VERSION:
            for backend in backends:
                backend.identity, backend.fields_left_out = backend.label, frozenset()
        asked.append((llm, backends))
    by_step = {name: backends for name, step in setup.steps.items() for llm, backends in asked if llm == step.llm}
    selector = ModelSelector([backend for _, backends in asked for backend in backends], by_step)
    forgotten = frozenset(name for name, step in setup.steps.items() if not step.use_cache)
    ask_again = setup.run.options.ask_again
    known = KnownCalls(index, setup.run.calls, setup.run.owner, forgotten, ask_again=ask_again)
    return CallContext(setup.run, selector, log, known)
