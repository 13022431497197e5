"""I ask a model on behalf of one row: call log first, then limits, retries and the call itself.

I do not know what the answer is for. A completion found in the call log takes no permit; a completion
that arrives is logged before the row hears of it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from raypipe.calllog import Asked, CallReader
from raypipe.chat import Completion, Message, Model, Request, Schema, Usage
from raypipe.errors import CallError, HaltedError, InfrastructureError, RaypipeError, Retry, RowError
from raypipe.identity import call_key, request_identity
from raypipe.limits import Amount, Limiter, Patience
from raypipe.steps.structured import ask_structured

_HOPELESS = frozenset({"auth", "not_found", "quota"})
"""Kinds of answers that no other row will be spared from."""
_HOPELESS_STREAK = 3


class Log(Protocol):
    """Where completions are written through."""

    def open(self) -> None: ...

    @property
    def is_full(self) -> bool: ...

    async def append(self, key: bytes, asked: Asked, completion: Completion, latency_s: float) -> None: ...


@dataclass(slots=True)
class Tally:
    """Calls and tokens, counted."""

    sent: int = 0
    cached: int = 0
    tries: int = 0
    input_tokens: int = 0
    output_tokens: int = 0


@dataclass
class Desk:
    """What all rows of one worker share when they call its model."""

    model: Model
    label: str
    log: Log
    known: CallReader
    limiter: Limiter
    max_tries: int
    worst: Callable[[Mapping[str, Any]], Amount]
    """The most that a call with this payload can take."""
    cost_of: Callable[[Usage], Amount]
    """What an answered call took."""
    total: Tally = field(default_factory=Tally)
    hedge_after_s: float | None = None
    unsent: Callable[[Asked], None] | None = None
    """Told of each call instead of sending it."""
    forgotten: frozenset[str] = frozenset()
    """Steps for which calls of earlier runs are not reused."""
    known_of_this_run: CallReader | None = None
    """What this run has logged, once rows are redone."""
    on_the_way: dict[bytes, asyncio.Future[Completion]] = field(default_factory=lambda: {})
    """Calls being made, by key: a row that is redone meanwhile takes their answer."""
    _hopeless: int = 0
    _last_success: float = float("-inf")

    def succeeded(self) -> None:
        self._hopeless = 0
        self._last_success = time.monotonic()

    def judge(self, error: CallError, began: float) -> None:
        """Raise InfrastructureError when a call that was given up means that the rest will fail alike."""
        if error.kind == "unreachable" and self._last_success < began:
            raise InfrastructureError(str(error)) from None
        if error.kind in _HOPELESS:
            self._hopeless += 1
            if self._hopeless >= _HOPELESS_STREAK:
                raise InfrastructureError(str(error)) from None


class RowCaller:
    """The `Caller` of one row in one step.

    The ordinal of a call counts the equal requests that the row asked before it, so a call keeps
    its identity when calls with other wordings are put in front of it.
    """

    __slots__ = ("_asked", "_desk", "_row", "_step", "_waited_s", "_waiting_since", "is_halted", "tally")

    def __init__(self, desk: Desk, step: str, row: bytes) -> None:
        self._desk = desk
        self._step = step
        self._row = row
        self._asked: dict[tuple[bytes, int], int] = {}
        self.tally = Tally()
        self.is_halted = False
        """Whether a call of this row was not sent because no call is sent any more."""
        self._waited_s = 0.0
        self._waiting_since: float | None = None

    @property
    def label(self) -> str:
        return self._desk.label

    @property
    def waited_s(self) -> float:
        """Seconds in which its call waited to be sent, or to be tried again, up to now."""
        since = self._waiting_since
        return self._waited_s + (0.0 if since is None else time.monotonic() - since)

    async def __call__(
        self,
        prompt: str | Sequence[Message],
        *,
        system: str | None = None,
        schema: Schema | None = None,
        temperature: float | None = None,
        max_tokens: int | None = None,
    ) -> Any:
        messages = tuple(prompt) if not isinstance(prompt, str) else ({"role": "user", "content": prompt},)
        if system is not None:
            messages = ({"role": "system", "content": system}, *messages)
        request = Request(messages, None, temperature, max_tokens)
        if schema is not None:
            value, _ = await ask_structured(self, request, schema)
            return value
        return (await self.complete(request)).text

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        desk, tally = self._desk, self.tally
        payload = desk.model.payload(request)
        asked = request_identity(desk.label, payload)
        ordinal = self._asked.get((asked, sample), 0)
        self._asked[asked, sample] = ordinal + 1
        key = call_key(self._step, self._row, ordinal, sample, asked)
        known = desk.known_of_this_run if self._step in desk.forgotten else desk.known
        found = known.find(key) if known is not None else None
        if found is None and key in desk.on_the_way:
            try:
                found = await asyncio.shield(desk.on_the_way[key])
            except HaltedError:
                self.is_halted = True
                raise
        if found is not None:
            tally.cached += 1
            desk.total.cached += 1
            return found
        call = Asked(self._step, self._row, ordinal, sample)
        if desk.unsent is not None:
            if not self.is_halted:
                desk.unsent(call)
            self.is_halted = True
            raise HaltedError("no call is sent")
        return await self._sent(key, call, payload)

    async def _sent(self, key: bytes, asked: Asked, payload: Mapping[str, Any]) -> Completion:
        desk, tally = self._desk, self.tally
        answer = desk.on_the_way[key] = asyncio.get_running_loop().create_future()
        try:
            completion = await self._answered(key, asked, payload)
        except BaseException as error:
            self.is_halted = self.is_halted or isinstance(error, HaltedError)
            answer.set_exception(error if isinstance(error, RaypipeError) else CallError("the call was given up"))
            answer.exception()
            raise
        finally:
            del desk.on_the_way[key]
        answer.set_result(completion)
        for counts in (tally, desk.total):
            counts.input_tokens += completion.usage.input_tokens
            counts.output_tokens += completion.usage.output_tokens
        return completion

    async def _answered(self, key: bytes, asked: Asked, payload: Mapping[str, Any]) -> Completion:
        """The answer, logged. The permit is kept until then, so that no more calls are at risk than permits exist."""
        desk, patience, began = self._desk, Patience(self._desk.max_tries), time.monotonic()
        need = desk.worst(payload)
        self._waiting_since = time.monotonic()
        while True:
            async with desk.limiter.permit(need) as permit:
                self._waited_s, self._waiting_since = self.waited_s, None
                self.tally.sent += 1
                desk.total.sent += 1
                sent = time.monotonic()
                try:
                    completion = await self._completion(payload, need)
                except CallError as error:
                    caught = error
                else:
                    desk.succeeded()
                    permit.spent = desk.cost_of(completion.usage)
                    await desk.log.append(key, asked, completion, time.monotonic() - sent)
                    if desk.log.is_full:
                        desk.limiter.halt("the disk of the call log is full")
                    return completion
            self.tally.tries += 1
            pause = patience.pause_after(caught)
            if caught.retry is Retry.SLOW_DOWN:
                desk.limiter.refused(caught.after_s)
            if pause is None:
                desk.judge(caught, began)
                raise caught
            self._waiting_since = time.monotonic()
            await desk.limiter.sleep(pause)

    async def _completion(self, payload: Mapping[str, Any], need: Amount) -> Completion:
        """Of a call that is hedged, the first answer."""
        desk = self._desk
        if desk.hedge_after_s is None:
            return await desk.model.complete(payload)
        has_begun = asyncio.Event()
        calls = {asyncio.create_task(desk.model.complete(payload))}
        try:
            done, _ = await asyncio.wait(calls, timeout=desk.hedge_after_s)
            if not done:
                calls.add(asyncio.create_task(self._second(payload, need, has_begun)))
            while True:
                done, pending = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
                answered = [call for call in done if call.exception() is None]
                # A second call that still waits for a permit may wait for this one's: nobody may wait for both.
                if answered or not pending or not has_begun.is_set():
                    return (answered or list(done))[0].result()
                calls = pending
        finally:
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)

    async def _second(self, payload: Mapping[str, Any], need: Amount, has_begun: asyncio.Event) -> Completion:
        desk = self._desk
        async with desk.limiter.permit(need) as permit:
            has_begun.set()
            permit.spent = need  # unless its answer says less: it is paid for whether that is waited for or not
            # One of the two answers is not waited for.
            for counts in (self.tally, desk.total):
                counts.sent += 1
                counts.tries += 1
            completion = await desk.model.complete(payload)
            permit.spent = desk.cost_of(completion.usage)
            return completion


class NoModel:
    """The `Caller` of a step that has no model: every use is an error that says so."""

    label = ""

    def __init__(self, step: str) -> None:
        self._step = step

    async def __call__(self, prompt: Any, **_: Any) -> Any:
        raise RowError(f"step {self._step!r} asks a model but has none; give it llm=…", kind="no_model")

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        raise RowError(f"step {self._step!r} asks a model but has none; give it llm=…", kind="no_model")
