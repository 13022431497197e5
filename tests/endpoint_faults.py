"""Endpoints that behave oddly, as data: each behaviour has a name and says byte by byte what is answered.

Knows nothing of who calls. `play` is a server in a thread that answers some requests oddly and the others well, and
counts what it answered. What it sends is written to the socket as it stands, so that a header, a status line or a
chunk may be anything.
"""

from __future__ import annotations

import asyncio
import gzip
import threading
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson

HOSTILE_INT = 2**63
_DEEP = 100_000


@dataclass
class Exchange:
    """One request, and the socket to answer it on."""

    body: bytes
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, raw: bytes) -> None:
        self.writer.write(raw)
        await self.writer.drain()


Play = Callable[[Exchange], Awaitable[None]]


@dataclass(frozen=True)
class Fault:
    """One odd behaviour."""

    name: str
    play: Play = field(repr=False)
    may_pass: bool = False
    """Whether what it answers may count as an answer."""
    stops: bool = False
    """Whether it may stop the run, to be gone on with later."""


def answer_of(body: bytes) -> dict[str, Any]:
    """A whole answer; no two requests have the same."""
    text = f"Answer {zlib.crc32(body):08x}."
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": -(-len(body) // 4), "completion_tokens": -(-len(text) // 4)}
    return {"id": "c-1", "object": "chat.completion", "model": "loopback", "choices": [choice], "usage": usage}


def response(content: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> bytes:
    """A whole HTTP response; a header that is given replaces the usual one."""
    fields = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Connection": "close"}
    lines = "".join(f"{name}: {value}\r\n" for name, value in (fields | dict(headers or {})).items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("utf-8", "surrogateescape") + content


_MISSING = object()


def changed(path: tuple[Any, ...], value: Any) -> Callable[[bytes], bytes]:
    """An answer with one field changed, or without it."""

    def made(body: bytes) -> bytes:
        answer: Any = answer_of(body)
        inner = answer
        for part in path[:-1]:
            inner = inner[part]
        if value is _MISSING:
            del inner[path[-1]]
        else:
            inner[path[-1]] = value
        return orjson.dumps(answer)

    return made


def told(make: Callable[[bytes], bytes], status: str = "200 OK", headers: Mapping[str, str] | None = None) -> Play:
    async def play(exchange: Exchange) -> None:
        await exchange.send(response(make(exchange.body), status, headers))

    return play


def fixed(content: bytes, status: str = "200 OK", headers: Mapping[str, str] | None = None) -> Play:
    return told(lambda _: content, status, headers)


def raw(content: bytes) -> Play:
    async def play(exchange: Exchange) -> None:
        await exchange.send(content)

    return play


# Fields.

_FIELDS: dict[str, tuple[Any, ...]] = {
    "usage": ("usage",),
    "prompt_tokens": ("usage", "prompt_tokens"),
    "completion_tokens": ("usage", "completion_tokens"),
    "model": ("model",),
    "id": ("id",),
    "object": ("object",),
    "choices": ("choices",),
    "choice": ("choices", 0),
    "finish_reason": ("choices", 0, "finish_reason"),
    "logprobs": ("choices", 0, "logprobs"),
    "message": ("choices", 0, "message"),
    "content": ("choices", 0, "message", "content"),
    "tool_calls": ("choices", 0, "message", "tool_calls"),
    "refusal": ("choices", 0, "message", "refusal"),
}
_VALUES: dict[str, Any] = {
    "missing": _MISSING,
    "null": None,
    "a number": 7,
    "negative": -1,
    "huge": HOSTILE_INT,
    "a fraction": 0.5,
    "true": True,
    "a text": "seven",
    "empty text": "",
    "a list": [1, "two", None, {"text": 3}, []],
    "an object": {"a": {"b": [1]}},
    "long text": "x" * 10_000,
}


def _field_faults() -> list[Fault]:
    found: list[Fault] = []
    for field_name, path in _FIELDS.items():
        for value_name, value in _VALUES.items():
            if value is _MISSING and path[-1] in ("logprobs", "tool_calls", "refusal"):
                continue
            found.append(Fault(f"{field_name}: {value_name}", told(changed(path, value)), may_pass=True))
    return found


# Headers.

_HEADERS: dict[str, dict[str, str]] = {
    "5,000 digits": dict.fromkeys(
        ("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens", "Retry-After"), "9" * 5000
    ),
    "negative limits": dict.fromkeys(("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"), "-5"),
    "limits that are no numbers": dict.fromkeys(("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"), "nan"),
    "limits beyond all": dict.fromkeys(("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"), "9" * 19),
    "limits of zero": dict.fromkeys(("x-ratelimit-limit-requests", "x-ratelimit-limit-tokens"), "0"),
    "other digits": dict.fromkeys(("x-ratelimit-limit-requests", "Retry-After"), "\u0663\u00b2"),
    "lists": dict.fromkeys(("x-ratelimit-limit-requests", "Retry-After"), "10, 20;w=1"),
    "empty": dict.fromkeys(("x-ratelimit-limit-requests", "Retry-After", "Content-Type"), ""),
    "a foreign charset": {"Content-Type": "application/json; charset=utf-16"},
    "no charset at all": {"Content-Type": 'application/json; charset="\x01"'},
    "html": {"Content-Type": "text/html"},
    "a long header": {"X-Long": "x" * 6000},
    "a header beyond bounds": {"X-Long": "x" * 200_000},
    "many headers": {f"X-{number}": "x" for number in range(500)},
    "no text": {"X-Odd": "\udcff\udcfe"},
    "cookies": {"Set-Cookie": "a=b; Max-Age=99999999999999999999; Domain=.."},
    "a link elsewhere": {"Location": "http://127.0.0.1:1/"},
}
_PAUSES = ["0", "-1", "nan", "", "soon", "²", "9" * 5000, "Mon, 99 Foo 2026", "1700000000"]
_LONG_PAUSES = ["22h", "Tue, 31 Dec 2999 23:59:59 GMT", "99999", "5" * 12]


def _header_faults() -> list[Fault]:
    good = [
        Fault(f"200 with {name}", told(lambda body: orjson.dumps(answer_of(body)), headers=headers), may_pass=True)
        for name, headers in _HEADERS.items()
    ]
    refusals = [
        Fault(f"429 with {name}", fixed(b"{}", "429 No", headers), stops=True) for name, headers in _HEADERS.items()
    ]
    short = [
        Fault(f"429, Retry-After {text[:20]!r}", fixed(b"{}", "429 No", {"Retry-After": text}), stops=True)
        for text in _PAUSES
    ]
    late = [
        Fault(f"{status}, Retry-After {text[:20]!r}", fixed(b"{}", f"{status} No", {"Retry-After": text}), stops=True)
        for text in _LONG_PAUSES
        for status in (429, 503)
    ]
    return good + refusals + short + late


# Statuses.

_STATUSES = (100, 101, 102, 103, 199, 201, 202, 203, 204, 205, 206, 207, 226, 299, 300, 301, 302, 303, 304, 305, 307)
_STATUSES += (308, 399, 400, 401, 402, 403, 404, 405, 406, 408, 409, 410, 413, 415, 418, 421, 422, 423, 424, 425, 426)
_STATUSES += (
    428,
    429,
    431,
    451,
    498,
    499,
    500,
    501,
    502,
    503,
    504,
    505,
    507,
    508,
    509,
    511,
    520,
    522,
    524,
    529,
    530,
    598,
)
_STATUSES += (599, 600, 999)
_STOPPING = frozenset({401, 402, 403, 404, 429})
"""What no other row may be spared from."""


def _status_faults() -> list[Fault]:
    whole = b'{"error": {"message": "as told", "type": "odd", "code": null}}'
    moved = {"Location": "/v1/chat/completions"}
    plain = [Fault(f"status {one}", fixed(whole, f"{one} Odd"), stops=one in _STOPPING) for one in _STATUSES]
    loops = [Fault(f"status {one} to itself", fixed(b"", f"{one} Moved", moved)) for one in (301, 302, 307, 308)]
    return plain + loops


# Bodies.


def _deep(opening: bytes, closing: bytes) -> bytes:
    return opening * _DEEP + closing * _DEEP


async def drip(exchange: Exchange) -> None:
    """One byte a second, for ever: never silent, never through."""
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{")
    while True:
        await asyncio.sleep(1.0)
        await exchange.send(b" ")


async def drip_of_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\n")
    number = 0
    while True:
        await asyncio.sleep(0.2)
        await exchange.send(b"X-%d: x\r\n" % number)
        number += 1


async def drip_of_interim_answers(exchange: Exchange) -> None:
    while True:
        await exchange.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        await asyncio.sleep(0.2)


async def silence(exchange: Exchange) -> None:
    await asyncio.Event().wait()


async def stream_without_end(exchange: Exchange) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    await exchange.send(head)
    while True:
        await exchange.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")


async def reset(exchange: Exchange) -> None:
    """The connection is reset, not closed."""
    exchange.writer.transport.abort()


async def reset_within_headers(exchange: Exchange) -> None:
    await exchange.send(b"HTTP/1.1 200 OK\r\nContent-Ty")
    exchange.writer.transport.abort()


async def reset_within_body(exchange: Exchange) -> None:
    whole = response(orjson.dumps(answer_of(exchange.body)))
    await exchange.send(whole[:-40])
    exchange.writer.transport.abort()


async def half_a_body(exchange: Exchange) -> None:
    await exchange.send(response(orjson.dumps(answer_of(exchange.body)))[:-40])


async def length_too_short(exchange: Exchange) -> None:
    content = orjson.dumps(answer_of(exchange.body))
    await exchange.send(response(content, headers={"Content-Length": str(len(content) - 30)}))


async def compressed(exchange: Exchange) -> None:
    await exchange.send(
        response(gzip.compress(orjson.dumps(answer_of(exchange.body))), headers={"Content-Encoding": "gzip"})
    )


async def chunked_well(exchange: Exchange) -> None:
    content = orjson.dumps(answer_of(exchange.body))
    head = (
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    await exchange.send(head + b"%x\r\n%s\r\n0\r\n\r\n" % (len(content), content))


def _as_text(make: Callable[[str], bytes]) -> Callable[[bytes], bytes]:
    return lambda body: make(orjson.dumps(answer_of(body)).decode())


_GZIP = {"Content-Encoding": "gzip"}
_CHUNKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
_SURROGATE = b'{"choices": [{"message": {"content": "half \\ud83d of a pair"}}]}'

_BODIES = [
    Fault("no body", fixed(b"")),
    Fault("null", fixed(b"null")),
    Fault("a number", fixed(b"7")),
    Fault("a text", fixed(b'"words"')),
    Fault("a list", fixed(b"[]")),
    Fault("an empty object", fixed(b"{}")),
    Fault("no choices", fixed(b'{"choices": []}')),
    Fault("an error with status 200", fixed(b'{"error": {"message": "as told", "code": 500}}')),
    Fault("an error with an odd code", fixed(b'{"error": {"message": ["as", "told"], "code": {"a": 1}}}')),
    Fault("an error that is a text", fixed(b'{"error": "as told"}')),
    Fault("an error that is a list", fixed(b'{"error": [[[[]]]]}', "500 Odd")),
    Fault("an error in a list", fixed(b'[{"error": {"message": null}}]', "500 Odd")),
    Fault("words", fixed(b"It works!")),
    Fault("html", fixed(b"<html><body>Sign in</body></html>", headers={"Content-Type": "text/html"})),
    Fault("html with an error", fixed(b"<html>" * 20_000, "502 Bad", {"Content-Type": "text/html"})),
    Fault("half of the JSON", told(lambda body: orjson.dumps(answer_of(body))[:-40])),
    Fault("JSON and more behind it", told(lambda body: orjson.dumps(answer_of(body)) + b" and more")),
    Fault("a byte order mark", told(lambda body: b"\xef\xbb\xbf" + orjson.dumps(answer_of(body))), may_pass=True),
    Fault("UTF-16", told(_as_text(lambda text: text.encode("utf-16")))),
    Fault("no UTF-8", fixed(b'{"choices": [{"message": {"content": "\xff\xfe\xc0"}}]}')),
    Fault("half a surrogate pair", fixed(_SURROGATE), may_pass=True),
    Fault("NaN", fixed(b'{"choices": [{"message": {"content": NaN}}]}')),
    Fault("infinite numbers", fixed(b'{"choices": [{"message": {"content": 1e999}}]}'), may_pass=True),
    Fault(
        "a number of 5,000 digits",
        fixed(b'{"choices": [{"message": {"content": "x"}}], "usage": ' + b"9" * 5000 + b"}"),
        may_pass=True,
    ),
    Fault(
        "keys twice",
        fixed(b'{"choices": 1, "choices": [{"message": {"content": "a", "content": "b"}}]}'),
        may_pass=True,
    ),
    Fault("lists 100,000 deep", fixed(_deep(b"[", b"]"))),
    Fault("objects 100,000 deep", fixed(_deep(b'{"a":', b"}"))),
    Fault("an error 100,000 deep", fixed(_deep(b"[", b"]"), "500 Odd")),
    Fault("a stream of events", fixed(b'data: {"choices": [{"delta": {"content": "a"}}]}\n\ndata: [DONE]\n\n')),
    Fault("events with their type", fixed(b"data: [DONE]\n\n", headers={"Content-Type": "text/event-stream"})),
    Fault("zeros", fixed(bytes(100_000))),
    Fault("ten MiB of blanks", fixed(b" " * (10 << 20))),
    Fault("gzip of 20 MiB", fixed(gzip.compress(b" " * (20 << 20)), headers=_GZIP)),
    Fault("gzip of 20 MiB in an error", fixed(gzip.compress(b"x" * (20 << 20)), "500 Odd", _GZIP)),
    Fault("gzip that is none", fixed(b"{}", headers=_GZIP)),
    Fault("gzip cut in half", fixed(gzip.compress(b"{}" * 1000)[:20], headers=_GZIP)),
    Fault("deflate that is none", fixed(b"{}", headers={"Content-Encoding": "deflate"})),
    Fault("a packing that nobody knows", fixed(b"{}", headers={"Content-Encoding": "odd"})),
    Fault("gzip of an answer", compressed, may_pass=True),
    Fault("chunks of an answer", chunked_well, may_pass=True),
    Fault("one byte a second", drip),
    Fault("headers without end", drip_of_headers),
    Fault("interim answers without end", drip_of_interim_answers),
    Fault("silence", silence),
    Fault("a body without end", stream_without_end),
    Fault("a reset at once", reset),
    Fault("a reset within the headers", reset_within_headers),
    Fault("a reset within the body", reset_within_body),
    Fault("a body cut short", half_a_body),
    Fault("a length that is too short", length_too_short),
    Fault("a length that is no number", fixed(b"{}", headers={"Content-Length": "two"})),
    Fault("a negative length", fixed(b"{}", headers={"Content-Length": "-2"})),
    Fault("a length beyond all", fixed(b"{}", headers={"Content-Length": "9" * 30})),
    Fault("two lengths", raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}")),
    Fault("chunks that are none", raw(_CHUNKED + b"zz\r\n{}\r\n0\r\n\r\n")),
    Fault("a chunk of negative size", raw(_CHUNKED + b"-5\r\n{}\r\n0\r\n\r\n")),
    Fault("a chunk beyond all", raw(_CHUNKED + b"f" * 30 + b"\r\n{}")),
    Fault("chunks without an end", raw(_CHUNKED + b"2\r\n{}\r\n")),
    Fault("no HTTP", raw(b"SSH-2.0-OpenSSH_9.6\r\n")),
    Fault("TLS", raw(b"\x15\x03\x01\x00\x02\x02\x28")),
    Fault("another HTTP", raw(b"HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\n{}")),
    Fault("a status that is no number", raw(b"HTTP/1.1 OK OK\r\nContent-Length: 2\r\n\r\n{}")),
    Fault("a status of 5,000 digits", raw(b"HTTP/1.1 " + b"2" * 5000 + b" OK\r\n\r\n{}")),
    Fault("a line without end", raw(b"HTTP/1.1 200 " + b"x" * 300_000)),
    Fault("headers of zeros", raw(b"HTTP/1.1 200 OK\r\n\x00\x00: \x00\r\n\r\n{}")),
    Fault("two answers at once", raw(2 * response(b'{"choices": []}', headers={"Connection": "keep-alive"}))),
]

FAULTS: tuple[Fault, ...] = (*_field_faults(), *_header_faults(), *_status_faults(), *_BODIES)
"""All of them; each by its name, which is its own."""


class Oddly:
    """A server that answers some requests oddly: the first `odd` of each request's tries, and of every `every` requests
    only one."""

    def __init__(self, fault: Fault, every: int) -> None:
        self.fault, self._every = fault, every
        self.is_well = False
        self.base_url = ""
        self.seen: Counter[bytes] = Counter()
        """How often each request came."""
        self.writers: set[asyncio.StreamWriter] = set()
        self.answered: Counter[bytes] = Counter()
        """How often each was answered well."""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.add(writer)
        with suppress(OSError, asyncio.IncompleteReadError, ValueError, asyncio.CancelledError):
            body = await _request(reader)
            self.seen[body] += 1
            if not self.is_well and zlib.crc32(body) % self._every == 0:
                await self.fault.play(Exchange(body, reader, writer))
            else:
                writer.write(response(orjson.dumps(answer_of(body))))
                await writer.drain()
                self.answered[body] += 1
        with suppress(OSError, asyncio.CancelledError):
            writer.close()
            await writer.wait_closed()
        self.writers.discard(writer)


async def _request(reader: asyncio.StreamReader) -> bytes:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    return await reader.readexactly(length)


@contextmanager
def play(fault: Fault, every: int = 3) -> Generator[Oddly]:
    """A server in a thread: one request in `every`, by its content, meets the fault; the others are answered well."""
    oddly, loop = Oddly(fault, every), asyncio.new_event_loop()
    ready, stop = threading.Event(), asyncio.Event()

    async def run() -> None:
        server = await asyncio.start_server(oddly.serve, "127.0.0.1", 0, backlog=1024)
        oddly.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
        ready.set()
        await stop.wait()
        server.close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        for writer in oddly.writers:
            writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports are closed by the loop

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), name="oddly", daemon=True)
    thread.start()
    ready.wait(10)
    try:
        yield oddly
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        loop.close()
