"""Calls a model on behalf of one row: the call log first, then limits, retries and the call itself.

A completion found in the call log takes no permit. Knows nothing of what the answer is for.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Unpack

from raypipe.calls.segments import CallOrigin
from raypipe.contracts.llm import FILTERED, REFUSALS, TOOL, AskOptions, Completion, Message, Request
from raypipe.errors import CallError, HaltedError, InfrastructureError, Retry, RowError, shorten
from raypipe.execution.counts import CallCounts
from raypipe.execution.worker.call_context import CallContext
from raypipe.execution.worker.model_selection import Attempt
from raypipe.identity import call_key, request_identity
from raypipe.limits import LONGEST_WAIT_S, RetryPolicy
from raypipe.steps.llm.conversation import ask

_AGAIN = "it asks to wait again and again"
_MOST_TRIES = 4
"""Of work that is no call of a model, such as a search."""
_MOST_SAID = 300
_NOT_AGAIN = "that is an answer, so it is not asked again: change the prompt or the model, or retry with ask_again"


class RowCaller:
    """The `Caller` of one row in one step.

    The ordinal of a call counts the equal requests that the row asked before it, so that a call keeps
    its identity when calls with other wordings are put in front of it.
    """

    __slots__ = (
        "_answered_by",
        "_asked",
        "_context",
        "_row",
        "_step",
        "_waited_s",
        "_waiting_since",
        "counts",
        "is_halted",
    )

    def __init__(self, context: CallContext, step: str, row: bytes) -> None:
        self._context = context
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
        return self._answered_by or self._context.selector.asked_by(self._step)[0].label

    @property
    def waited_s(self) -> float:
        """Seconds in which its calls waited to be sent, or to be tried again, up to now."""
        since = self._waiting_since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        return await ask(self, prompt, options)

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        context = self._context
        attempts, ordinal = self._attempts(request, sample)
        left, refusal = attempts, None
        for one in attempts:
            found = context.known.find(self._step, one.key)
            if found is not None:
                answered = self._cached(found, one, one.backend.label)
                if answered.finish_reason not in REFUSALS:
                    return answered
                left, refusal = [other for other in left if other is not one], answered
        if not left and refusal is not None:
            raise _refused(refusal)
        key, origin = attempts[0].key, CallOrigin(self._step, self._row, ordinal, sample)
        try:
            if key in context.in_progress:  # the row was begun before
                shared = await asyncio.shield(context.in_progress[key])
                return _whole(self._cached(shared, attempts[0], shared.answered_by))
            if context.run.unsent is not None:
                raise self._not_sent(context.run.unsent, origin)
            completion = await context.make(key, self._ask, left, origin)
        except HaltedError:
            self.is_halted = True
            raise
        self._answered_by = completion.answered_by
        return _whole(completion)

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        context, label = self._context, f"{TOOL}{what}"
        if played is not None and context.run.options.is_dry_run:
            return played
        asked = request_identity(label, payload)
        ordinal = self._next_ordinal(asked, 0)
        key, origin = call_key(self._step, self._row, ordinal, 0, asked), CallOrigin(self._step, self._row, ordinal, 0)
        found = context.known.find(self._step, key)
        if found is not None:
            return found.text

        async def do_work() -> Completion:
            began = time.monotonic()
            completion = Completion(await self._retry(work), model=label)
            await context.record(key, origin, completion, began)
            return completion

        try:
            if key in context.in_progress:
                return (await asyncio.shield(context.in_progress[key])).text
            if context.run.unsent is not None:
                raise self._not_sent(context.run.unsent, origin)
            return (await context.make(key, do_work)).text
        except HaltedError:
            self.is_halted = True
            raise

    def _next_ordinal(self, asked: bytes, sample: int) -> int:
        """How many equal requests this row asked before."""
        ordinal = self._asked.get((asked, sample), 0)
        self._asked[asked, sample] = ordinal + 1
        return ordinal

    def _attempts(self, request: Request, sample: int) -> tuple[list[Attempt], int]:
        """The call as each model would be sent it, and its ordinal."""
        found: list[Attempt] = []
        ordinal = 0
        for backend in self._context.selector.asked_by(self._step):
            payload = backend.model.payload(request)
            body = payload.body
            if backend.fields_left_out:
                body = {name: value for name, value in body.items() if name not in backend.fields_left_out}
            asked = request_identity(backend.identity, body)
            if not found:
                ordinal = self._next_ordinal(asked, sample)
            found.append(Attempt(backend, payload, call_key(self._step, self._row, ordinal, sample, asked)))
        return found, ordinal

    def _cached(self, completion: Completion, attempt: Attempt, label: str) -> Completion:
        self.counts.count_cached(attempt.backend)
        self._context.total.count_cached(attempt.backend)
        if completion.finish_reason in REFUSALS:
            self.counts.count_refused(attempt.backend)
        self._answered_by = label
        return Completion(*completion[:-1], answered_by=label)

    def _not_sent(self, unsent: Callable[[CallOrigin], None], origin: CallOrigin) -> HaltedError:
        if not self.is_halted:
            unsent(origin)
        return HaltedError("no call is sent")

    async def _ask(self, attempts: Sequence[Attempt], origin: CallOrigin) -> Completion:
        """The answer of the first model that gives one. Raises CallError, HaltedError.

        Models that fail are tried again like a model that is alone, but others are asked meanwhile. One that refuses
        has answered: it is not asked again, but the others are.
        """
        selector, refusal = self._context.selector, None
        left, began = list(attempts), time.monotonic()
        for one in attempts:
            one.need = one.backend.costs.most(one.payload)
        while left := [one for one in left if not one.is_paused_too_long]:
            self._waiting_since = time.monotonic()
            one = await selector.enter(left)
            self._waited_s, self._waiting_since = self.waited_s, None
            try:
                completion = await self._context.send(one, origin, self.counts)
            except CallError as error:
                self.counts.count_unanswered(one.backend)
                if not one.fail(error, began):
                    left.remove(one)
            else:
                if completion.finish_reason in REFUSALS and len(left) > 1:
                    left.remove(one)
                    refusal, one.error = completion, _refused(completion)
                    continue
                for other in attempts:
                    if other.error is not None and other is not one:
                        self.counts.count_for(other.backend, "failovers")
                return completion
        if refusal is not None:
            return refusal
        raise selector.give_up(attempts)

    async def _retry(self, work: Callable[[], Awaitable[str]]) -> str:
        """What `work` gives, tried again where that may help. Raises HaltedError, and RowError for what has failed."""
        selector, retries = self._context.selector, RetryPolicy(_MOST_TRIES)
        while True:
            if selector.halted_for:
                raise HaltedError(selector.halted_for)
            try:
                return await work()
            except InfrastructureError as error:
                raise selector.stop(error) from None
            except CallError as error:
                pause_s = retries.pause_after(error)
                if pause_s is None and (error.retry is Retry.SLOW_DOWN or (error.after_s or 0.0) > LONGEST_WAIT_S):
                    # Every row would have to wait for longer than a run waits.
                    asked = f"it asks to wait {error.after_s:,.0f} s" if error.after_s else _AGAIN
                    problem = f"{error}; {asked}, and a run waits {LONGEST_WAIT_S:.0f} s at most"
                    way = "run the same command again then to go on"
                    raise selector.stop(InfrastructureError(f"{problem}; {way}")) from None
                if pause_s is None:
                    tries = f" (tried {retries.tries} times)" if retries.tries > 1 else ""
                    raise RowError(f"{error}{tries}", kind=error.kind) from None
            self._waiting_since = time.monotonic()
            await selector.backends[0].limiter.sleep(pause_s)
            self._waited_s, self._waiting_since = self.waited_s, None


def _whole(completion: Completion) -> Completion:
    """The completion. Raises CallError for one in which the model refuses, or that a filter stopped."""
    if completion.finish_reason in REFUSALS:
        raise _refused(completion)
    return completion


def _refused(completion: Completion) -> CallError:
    """The error of a row for which a model refuses to answer."""
    said = shorten(" ".join(completion.text.split()), _MOST_SAID)
    what = "a content filter stopped its answer" if completion.finish_reason == FILTERED else "it refused to answer"
    return CallError(f"model {completion.answered_by!r}: {what}{f' ({said})' if said else ''}; {_NOT_AGAIN}", "refused")


@dataclass(eq=False)
class NoModel:
    """The `Caller` of a step that has no model: every use raises RowError."""

    label = ""

    step: str

    async def __call__(self, *_: Any, **__: Any) -> Any:
        raise RowError(f"step {self.step!r} asks a model but has none; give it llm=…", kind="no_model")

    complete = recorded = __call__
