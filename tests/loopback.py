"""An OpenAI-compatible server on this machine that behaves as badly as a test asks.

Knows nothing of its callers. Every request is logged before it is answered, so that a test can count what was sent.
It runs in a thread (`with serve(latency_s=0.1) as server`) or as a process (`python -m tests.loopback --port 0`),
which prints its base URL and tells its counts under `/log`.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

import orjson
from aiohttp import web

from raypipe.identity import canonical_json, digest
from raypipe.models.offline.prompt import Prompt
from raypipe.models.offline.schema import value_for
from raypipe.models.offline.vectors import embedding, scores

OK, TOO_MANY = 200, 429
CUT = "cut"
"""The connection is closed in the middle of the body."""
SILENCE = "silence"
"""No answer, ever."""
TRUNCATED = "truncated"
"""Status 200 with half of the JSON, complete as far as HTTP can tell."""

Fault = int | str
"""An HTTP status or one of the words above."""

CODES = {400: "invalid_request_error", 401: "invalid_api_key", 404: "model_not_found", 429: "rate_limit_exceeded"}


@dataclass(frozen=True)
class Behaviour:
    """How the server behaves; by default it answers at once and always."""

    latency_s: float = 0.0
    """Mean time to an answer."""
    latency_sigma: float = 0.0
    """Sigma of the log-normal latency, seeded by the request; 0: always `latency_s`."""
    answer: Callable[[dict[str, Any]], str] | None = None
    """Text for a request body."""
    script: Sequence[Fault] = ()
    """What happens to the first requests in order of arrival: 200 or a fault."""
    shares: Mapping[Fault, float] = field(default_factory=dict[Fault, float])
    """Share of the requests that meet a fault, seeded by the request and how often it came."""
    requests_per_s: float | None = None
    """Quota; what is beyond it is answered 429."""
    burst: int = 1
    """Requests that the quota admits at once."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Headers of every answer that is not 200, for example Retry-After."""
    error: Mapping[str, Any] | bytes = field(default_factory=dict[str, Any])
    """Fields of the `error` object, instead of the usual ones; or the whole body, as it is."""
    body: bytes | None = None
    """Whole body of every 200, as it is."""
    is_bare: bool = False
    """A constant answer and no log: what the server itself costs at least."""


@dataclass
class Logged:
    """One request that arrived. Times are `time.monotonic()`."""

    raw: bytes
    authorization: str
    started: float
    ended: float = 0.0
    status: int = 0
    is_answered: bool = False
    path: str = ""

    @cached_property
    def body(self) -> dict[str, Any]:
        return orjson.loads(self.raw)

    @cached_property
    def digest(self) -> str:
        return digest(canonical_json(self.body)).hex()


class Loopback:
    """The server's state. Read it from any thread; only the server's thread writes it."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.base_url = ""
        self.requests: list[Logged] = []
        self.in_flight = 0
        self.max_in_flight = 0
        self._seen: Counter[int] = Counter()
        self._admitted_until = 0.0

    def counts(self) -> dict[str, int]:
        """How often each request arrived, by digest."""
        return dict(Counter(logged.digest for logged in self.requests))

    def statuses(self) -> dict[int, int]:
        """How many requests ended with each status; 0: no whole answer."""
        return dict(Counter(logged.status for logged in self.requests))

    def summary(self) -> dict[str, Any]:
        """What `/log` tells."""
        answered = Counter(logged.digest for logged in self.requests if logged.is_answered)
        return {
            "total": len(self.requests),
            "counts": self.counts(),
            "answered": dict(answered),
            "statuses": {str(status): count for status, count in self.statuses().items()},
            "in_flight": self.in_flight,
            "max_in_flight": self.max_in_flight,
        }

    async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path.endswith(("/completions", "/api/generate", "/embeddings", "/classify")):
            return await self._complete(request)
        if request.path == "/log":
            return _json_response(200, self.summary())
        if request.path.endswith("/models"):
            return _json_response(200, {"object": "list", "data": [{"id": "loopback", "object": "model"}]})
        return _json_response(404, {"error": {"message": f"no such path: {request.path}"}})

    async def respond_bare(self, request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(body=_BARE, content_type="application/json")

    async def _complete(self, request: web.BaseRequest) -> web.StreamResponse:
        raw = await request.read()
        logged = Logged(raw, request.headers.get("Authorization", ""), time.monotonic(), path=request.path)
        ordinal = len(self.requests)
        self.requests.append(logged)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        try:
            seed = zlib.crc32(raw)
            fault = self._fault(ordinal, seed, logged.started)
            if fault != TOO_MANY:
                await self._wait(seed)
            return await self._answer(request, logged, fault)
        finally:
            self.in_flight -= 1
            logged.ended = time.monotonic()

    def _fault(self, ordinal: int, seed: int, now: float) -> Fault:
        behaviour = self.behaviour
        if ordinal < len(behaviour.script):
            return behaviour.script[ordinal]
        if behaviour.requests_per_s and not self._is_admitted(now, behaviour.requests_per_s):
            return TOO_MANY
        if behaviour.shares:
            self._seen[seed] += 1
            drawn = random.Random(seed * 1000 + self._seen[seed]).random()
            for fault, share in behaviour.shares.items():
                drawn -= share
                if drawn < 0:
                    return fault
        return OK

    def _is_admitted(self, now: float, per_s: float) -> bool:
        """Virtual scheduling (GCRA): `_admitted_until` is when the next request is due."""
        if self._admitted_until - now > (self.behaviour.burst - 1) / per_s:
            return False
        self._admitted_until = max(self._admitted_until, now) + 1 / per_s
        return True

    async def _wait(self, seed: int) -> None:
        latency_s, sigma = self.behaviour.latency_s, self.behaviour.latency_sigma
        if latency_s and sigma:
            latency_s = random.Random(seed).lognormvariate(math.log(latency_s) - sigma**2 / 2, sigma)
        if latency_s:
            await asyncio.sleep(latency_s)

    async def _answer(self, request: web.BaseRequest, logged: Logged, fault: Fault) -> web.StreamResponse:
        if fault == SILENCE:
            await asyncio.Event().wait()
        if isinstance(fault, int) and fault != OK:
            return await self._send(request, logged, fault, self._error_body(fault), self.behaviour.headers)
        body = self.behaviour.body or self._completion(logged)
        if fault == CUT:
            return await _cut(request, body)
        if fault == TRUNCATED:
            return await self._send(request, logged, OK, body[: len(body) // 2], {}, is_whole=False)
        return await self._send(request, logged, OK, body, {})

    async def _send(
        self,
        request: web.BaseRequest,
        logged: Logged,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
        *,
        is_whole: bool = True,
    ) -> web.StreamResponse:
        response = web.Response(status=status, body=body, content_type="application/json", headers=headers)
        await response.prepare(request)
        await response.write_eof()
        logged.status = status if is_whole else 0
        logged.is_answered = is_whole and status == OK
        return response

    def _error_body(self, status: int) -> bytes:
        if isinstance(self.behaviour.error, bytes):
            return self.behaviour.error
        usual = {"message": f"as told: {status}", "type": "loopback", "code": CODES.get(status, "server_error")}
        return orjson.dumps({"error": {**usual, **self.behaviour.error}})

    def _completion(self, logged: Logged) -> bytes:
        if logged.path.endswith(("/embeddings", "/classify")):
            return _numbers(logged)
        text = self._text(logged)
        asked, answered = -(-len(logged.raw) // 4), -(-len(text) // 4)
        if logged.path.endswith("/api/generate"):
            counts = {"prompt_eval_count": asked, "eval_count": answered}
            return orjson.dumps({"model": "loopback", "response": text, "done": True, "done_reason": "stop"} | counts)
        usage = {"prompt_tokens": asked, "completion_tokens": answered}
        choice: dict[str, Any] = {"index": 0, "finish_reason": "stop"}
        if not logged.path.endswith("/chat/completions"):
            choice |= {"text": text}
            return orjson.dumps({"object": "text_completion", "model": "loopback", "choices": [choice], "usage": usage})
        if b'"tools"' in logged.raw and text.startswith("["):
            choice["finish_reason"] = "tool_calls"
            choice |= {"message": {"role": "assistant", "content": None, "tool_calls": _calls(text)}}
        else:
            choice |= {"message": {"role": "assistant", "content": text}}
        return orjson.dumps({"object": "chat.completion", "model": "loopback", "choices": [choice], "usage": usage})

    def _text(self, logged: Logged) -> str:
        if self.behaviour.answer:
            return self.behaviour.answer(logged.body)
        if b'"json_schema"' in logged.raw:
            schema = logged.body["response_format"]["json_schema"]["schema"]
            value = value_for(schema, Prompt.of(logged.body["messages"]), zlib.crc32(logged.raw))
            return orjson.dumps(value).decode()
        if b'"tools"' in logged.raw and logged.body["messages"][-1]["role"] != "tool":
            tool = logged.body["tools"][0]["function"]
            value = value_for(tool["parameters"], Prompt.of(logged.body["messages"]), zlib.crc32(logged.raw))
            return orjson.dumps([{"name": tool["name"], "arguments": value}]).decode()
        return f"Answer {zlib.crc32(logged.raw):08x}."


def _numbers(logged: Logged) -> bytes:
    """An embedding, or the scores of a conversation."""
    body = logged.body
    if logged.path.endswith("/embeddings"):
        found: dict[str, Any] = {"embedding": embedding(body["input"], body.get("dimensions"))}
    else:
        found = {"probs": scores(body, 1), "num_classes": 1}
    usage = {"prompt_tokens": -(-len(logged.raw) // 4)}
    return orjson.dumps({"object": "list", "model": "loopback", "data": [{"index": 0, **found}], "usage": usage})


def _calls(text: str) -> list[dict[str, Any]]:
    """Calls of tools, as OpenAI's API writes them."""
    calls = [(call["name"], orjson.dumps(call["arguments"]).decode()) for call in orjson.loads(text)]
    return [
        {"id": f"call_{n}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for n, (name, arguments) in enumerate(calls)
    ]


@contextmanager
def serve(
    behaviour: Behaviour | None = None, *, kind: type[Loopback] = Loopback, **settings: Any
) -> Generator[Loopback]:
    """A server in a thread of its own: `with serve(script=[429, 200]) as server: … server.base_url`."""
    loopback = kind(behaviour or Behaviour(**settings))
    ready, stop = threading.Event(), asyncio.Event()
    loop = asyncio.new_event_loop()
    thread = threading.Thread(
        target=lambda: loop.run_until_complete(_run(loopback, 0, ready.set, stop)), name="loopback", daemon=True
    )
    thread.start()
    ready.wait(10)
    try:
        yield loopback
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()


@contextmanager
def spawn(*arguments: str) -> Generator[str]:
    """A server in a process of its own; gives its base URL: `with spawn("--latency-s", "0.05") as url`."""
    command = [sys.executable, "-m", "tests.loopback", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


async def _run(loopback: Loopback, port: int, ready: Callable[[], None], stop: asyncio.Event) -> None:
    respond = loopback.respond_bare if loopback.behaviour.is_bare else loopback.respond
    loop = asyncio.get_running_loop()

    def request_of(*parts: Any) -> web.BaseRequest:
        return web.BaseRequest(*parts, loop, client_max_size=2**30)

    server = web.Server(respond, request_factory=request_of, handler_cancellation=True, access_log=None)
    listener = await loop.create_server(server, "127.0.0.1", port, backlog=4096)
    loopback.base_url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}/v1"
    ready()
    await stop.wait()
    listener.close()
    await server.shutdown(0.1)


async def _cut(request: web.BaseRequest, body: bytes) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Length": str(len(body)), "Content-Type": "application/json"})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    if request.transport is not None:
        request.transport.close()
    return response


def _json_response(status: int, content: Mapping[str, Any]) -> web.Response:
    return web.Response(status=status, body=orjson.dumps(content), content_type="application/json")


_BARE = orjson.dumps(
    {
        "object": "chat.completion",
        "model": "loopback",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Yes. " * 60}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 400, "completion_tokens": 75},
    }
)


def _fault_of(word: str) -> Fault:
    return int(word) if word.isdigit() else word


def _share_of(text: str) -> tuple[Fault, float]:
    fault, _, share = text.partition("=")
    return _fault_of(fault), float(share)


def _header_of(text: str) -> tuple[str, str]:
    name, _, value = text.partition(":")
    return name, value.strip()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(prog="python -m tests.loopback", description=__doc__)
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--latency-sigma", type=float, default=0.0)
    parser.add_argument("--script", type=_fault_of, nargs="*", default=())
    parser.add_argument("--share", type=_share_of, action="append", default=[], help="429=0.1")
    parser.add_argument("--header", type=_header_of, action="append", default=[], help="'Retry-After: 1'")
    parser.add_argument("--requests-per-s", type=float)
    parser.add_argument("--burst", type=int, default=1)
    parser.add_argument("--bare", action="store_true", dest="is_bare")
    chosen = vars(parser.parse_args(arguments))
    port, chosen["shares"], chosen["headers"] = chosen.pop("port"), dict(chosen["share"]), dict(chosen["header"])
    known = {item.name for item in fields(Behaviour)}
    loopback = Loopback(Behaviour(**{name: value for name, value in chosen.items() if name in known}))
    asyncio.run(_run(loopback, port, lambda: print(loopback.base_url, flush=True), asyncio.Event()))


if __name__ == "__main__":
    main()
