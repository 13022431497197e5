"""Asks a model on behalf of one row: call log first, then limits, retries and the call itself.

Knows nothing of what the answer is for. A completion found in the call log takes no permit; a completion
that arrives is logged before the row hears of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Unpack

from raypipe.calls.segments import CallOrigin
from raypipe.concurrency.background import TaskScope
from raypipe.contracts.llm import TOOL, AskOptions, Completion, Message, Request
from raypipe.errors import CallError, HaltedError, InfrastructureError, RaypipeError, Retry, RowError
from raypipe.execution.counts import CallCounts
from raypipe.execution.worker.model_selection import Attempt, Backend, Desk
from raypipe.identity import call_key, request_identity
from raypipe.limits import LONGEST_WAIT_S, RetryPolicy
from raypipe.steps.llm.conversation import ask

_MOST_TRIES = 4
"""Of what is asked beside models, such as a search."""


class RowCaller:
    """The `Caller` of one row in one step.

    The ordinal of a call counts the equal requests that the row asked before it, so a call keeps
    its identity when calls with other wordings are put in front of it.
    """

    __slots__ = (
        "_answered_by",
        "_asked",
        "_desk",
        "_row",
        "_step",
        "_waited_s",
        "_waiting_since",
        "counts",
        "is_halted",
    )

    def __init__(self, desk: Desk, step: str, row: bytes) -> None:
        self._desk = desk
        self._step = step
        self._row = row
        self._answered_by = ""
        self._asked: dict[tuple[bytes, int], int] = {}
        self.counts = CallCounts()
        self.is_halted = False
        """Whether a call of this row was not sent because no call is sent any more."""
        self._waited_s = 0.0
        self._waiting_since: float | None = None

    @property
    def label(self) -> str:
        """The model's; of a pool of models the one's that answered last, at first the first one's."""
        return self._answered_by or self._desk.asked_by(self._step)[0].label

    @property
    def waited_s(self) -> float:
        """Seconds in which its call waited to be sent, or to be tried again, up to now."""
        since = self._waiting_since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        return await ask(self, prompt, options)

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        desk = self._desk
        chances, ordinal = self._chances(request, sample)
        for one in chances:
            found = desk.found(self._step, one.key)
            if found is not None:
                return self._taken(one.member.label, found, one)
        key, call = chances[0].key, CallOrigin(self._step, self._row, ordinal, sample)
        on_the_way = await self._on_the_way(key)
        if on_the_way is not None:
            return self._taken(on_the_way.answered_by, on_the_way, chances[0])
        completion = await self._made(key, call, lambda: self._answered(chances, call))
        self._answered_by = completion.answered_by
        return completion

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        desk, label = self._desk, f"{TOOL}{what}"
        if played is not None and desk.run.options.is_dry_run:
            return played
        asked = request_identity(label, payload)
        ordinal = self._ordinal(asked, 0)
        key, call = call_key(self._step, self._row, ordinal, 0, asked), CallOrigin(self._step, self._row, ordinal, 0)
        found = desk.found(self._step, key) or await self._on_the_way(key)

        async def worked() -> Completion:
            began = time.monotonic()
            completion = Completion(await self._patiently(work), model=label)
            await self._log(key, call, completion, began)
            return completion

        return (found or await self._made(key, call, worked)).text

    async def _patiently(self, work: Callable[[], Awaitable[str]]) -> str:
        """What `work` gives. Who is to be asked later is asked then, and no row waits longer than the run does.

        Raises HaltedError, and RowError for what has failed.
        """
        patience = RetryPolicy(_MOST_TRIES)
        while True:
            if self._desk.halted_for:
                raise HaltedError(self._desk.halted_for)
            try:
                return await work()
            except InfrastructureError as error:
                raise self._desk.stop(error) from None
            except CallError as error:
                pause_s = patience.pause_after(error)
                if pause_s is None and (error.retry is Retry.SLOW_DOWN or (error.after_s or 0.0) > LONGEST_WAIT_S):
                    raise self._desk.stop(_away(error)) from None
                if pause_s is None:
                    tries = f" (tried {patience.tries} times)" if patience.tries > 1 else ""
                    raise RowError(f"{error}{tries}", kind=error.kind) from None
            self._waiting_since = time.monotonic()
            await self._desk.members[0].limiter.sleep(pause_s)
            self._waited_s, self._waiting_since = self.waited_s, None

    def _ordinal(self, asked: bytes, sample: int) -> int:
        """How many equal ones this row asked before."""
        ordinal = self._asked.get((asked, sample), 0)
        self._asked[asked, sample] = ordinal + 1
        return ordinal

    async def _on_the_way(self, key: bytes) -> Completion | None:
        """The answer that is being waited for already, because the row was begun before."""
        if key not in self._desk.on_the_way:
            return None
        try:
            return await asyncio.shield(self._desk.on_the_way[key])
        except HaltedError:
            self.is_halted = True
            raise

    def _chances(self, request: Request, sample: int) -> tuple[list[Attempt], int]:
        """The call as each member would be sent it, and its ordinal."""
        found: list[Attempt] = []
        ordinal = 0
        for member in self._desk.asked_by(self._step):
            payload = member.model.payload(request)
            asked = request_identity(member.label, payload.body)
            if not found:
                ordinal = self._ordinal(asked, sample)
            found.append(Attempt(member, payload, call_key(self._step, self._row, ordinal, sample, asked)))
        return found, ordinal

    def _taken(self, label: str, completion: Completion, one: Attempt) -> Completion:
        self.counts.count_cached(one.member)
        self._desk.total.count_cached(one.member)
        self._answered_by = label
        return Completion(*completion[:-1], answered_by=label)

    async def _made(self, key: bytes, call: CallOrigin, make: Callable[[], Awaitable[Completion]]) -> Completion:
        """What `make` gives, which others that want the same meanwhile are given too."""
        desk = self._desk
        if desk.run.unsent is not None:
            if not self.is_halted:
                desk.run.unsent(call)
            self.is_halted = True
            raise HaltedError("no call is sent")
        answer = desk.on_the_way[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await make()
        except BaseException as error:
            self.is_halted = self.is_halted or isinstance(error, HaltedError)
            answer.set_exception(error if isinstance(error, RaypipeError) else CallError("the call was given up"))
            answer.exception()
            raise
        finally:
            del desk.on_the_way[key]
        answer.set_result(completion)
        return completion

    async def _answered(self, chances: Sequence[Attempt], asked: CallOrigin) -> Completion:
        """The answer of the first that gives one.

        Members that fail are tried again like a model that is alone, but others are asked meanwhile.
        """
        left, began = list(chances), time.monotonic()
        for one in chances:
            one.begin()
        while left := [one for one in left if not one.is_away]:
            self._waiting_since = time.monotonic()
            one = await self._desk.enter(left)
            self._waited_s, self._waiting_since = self.waited_s, None
            try:
                completion = await self._logged(one, asked)
            except CallError as error:
                self._failed(one, error, began, left)
            else:
                for other in chances:
                    if other.error is not None and other is not one:
                        self.counts.count_for(other.member, "failovers")
                return completion
        raise self._desk.give_up(chances)

    def _failed(self, one: Attempt, error: CallError, began: float, left: list[Attempt]) -> None:
        self.counts.count_unanswered(one.member)
        one.error = error
        one.member.failed(error)
        pause = one.pause_after(error)
        if error.retry is Retry.SLOW_DOWN:
            one.member.limiter.refused(error.after_s)
            # Others that are answered meanwhile tell a call that is never taken from an endpoint that takes none.
            began = one.refused_at = one.refused_at or time.monotonic()
            pause = None if one.member.has_refused_since(began) else pause
        elif error.after_s:
            one.member.limiter.pause(error.after_s)
        if pause is None:
            one.is_lost = one.member.is_lost(error, began)
            left.remove(one)
        else:
            one.not_before = time.monotonic() + pause

    async def _logged(self, one: Attempt, asked: CallOrigin) -> Completion:
        """The answer, logged. The permit is kept until then, so that no more calls are at risk than permits exist."""
        member, spent = one.member, None
        try:
            self._count_sent(member)
            sent = time.monotonic()
            completion = await self._completion(one)
            member.succeeded()
            spent = member.cost_of(completion.usage, one.need)
            await self._log(one.key, asked, completion, sent)
        finally:
            member.limiter.leave(one.need, spent)
        self.counts.count_tokens(member, completion.usage)
        self._desk.total.count_tokens(member, completion.usage)
        return Completion(*completion[:-1], answered_by=member.label)

    async def _log(self, key: bytes, asked: CallOrigin, completion: Completion, began: float) -> None:
        await self._desk.log.append(key, asked, completion, time.monotonic() - began)
        if self._desk.log.is_full:
            self._desk.halt("the disk of the call log is full")

    def _count_sent(self, member: Backend) -> None:
        self.counts.count_sent(member)
        self._desk.total.count_sent(member)

    async def _completion(self, one: Attempt) -> Completion:
        """Of a call that is hedged, the first answer."""
        model, after_s = one.member.model, one.member.hedge_after_s
        if after_s is None:
            return await model.complete(one.payload, one.key)
        has_begun = asyncio.Event()
        async with TaskScope() as scope:
            calls = {scope.start(model.complete(one.payload, one.key))}
            done, _ = await asyncio.wait(calls, timeout=after_s)
            if not done:
                calls.add(scope.start(self._second(one, has_begun)))
            while True:
                done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                answered = [call for call in done if call.exception() is None]
                # A second call that still waits for a permit may wait for this one's: nobody may wait for both.
                if answered or not pending or not has_begun.is_set():
                    return (answered or list(done))[0].result()
                calls = pending

    async def _second(self, one: Attempt, has_begun: asyncio.Event) -> Completion:
        member = one.member
        async with member.limiter.permit(one.need) as permit:
            has_begun.set()
            permit.spent = one.need  # unless its answer says less: it is paid for whether that is waited for or not
            self._count_sent(member)
            for counts in (self.counts, self._desk.total):
                counts.count_unanswered(member)  # one of the two answers is not waited for
            completion = await member.model.complete(one.payload, one.key)
            permit.spent = member.cost_of(completion.usage, one.need)
            return completion


def _away(error: CallError) -> InfrastructureError:
    """It asks every row to wait for longer than a run waits."""
    asked = f"it asks to wait {error.after_s:,.0f} s" if error.after_s else "it asks to wait again and again"
    problem = f"{error}; {asked}, and a run waits {LONGEST_WAIT_S:.0f} s at most"
    return InfrastructureError(f"{problem}; run the same command again then to go on")


class NoModel:
    """The `Caller` of a step that has no model: every use is an error that says so."""

    label = ""

    def __init__(self, step: str) -> None:
        self._step = step

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        raise self._error()

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        raise self._error()

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        raise self._error()

    def _error(self) -> RowError:
        return RowError(f"step {self._step!r} asks a model but has none; give it llm=…", kind="no_model")
