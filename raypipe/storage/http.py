"""Sends one HTTP request and returns the answer, within bounds of time and size.

Knows nothing of what it is for, and sends it once. Only `fetch_file` follows redirects; it sends no headers of the
caller's and takes user and password to no other host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from yarl import URL

from raypipe.concurrency.threads import DaemonThreads
from raypipe.errors import CallError, Retry

T = TypeVar("T")

_MOST_REDIRECTS = 5
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PIECE_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request. Redirects are not followed: headers may hold a key for one server alone."""

    method: str
    url: str
    params: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    body: Any = None
    """Sent as JSON; `None` for nothing."""
    timeout_s: float = 60.0
    max_bytes: int = 2**20
    """Most that is read of the answer."""


class Fetched(NamedTuple):
    """An answer, with whatever status."""

    status: int
    headers: Mapping[str, str]
    text: str
    is_cut: bool
    """Whether there was more than `max_bytes`."""

    @property
    def is_good(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status < 300


async def fetch(request: Outgoing) -> Fetched:
    """The answer of the server. Raises CallError when there is none."""
    url, headers = URL(request.url), {"User-Agent": "raypipe", **request.headers}
    body = None if request.body is None else orjson.dumps(request.body, default=str)
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    named = f"{request.method} {url.with_query(None).with_user(None)}"
    try:
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=request.timeout_s), cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
            session.request(
                request.method,
                url.extend_query(list(request.params)),
                data=body,
                headers=headers,
                allow_redirects=False,
                proxy=proxy_for(url),
            ) as response,
        ):
            content = await _read(response, request.max_bytes)
    except TimeoutError:
        raise CallError(f"{named} gave no answer within {request.timeout_s:g} s", "timeout", Retry.LATER) from None
    except (aiohttp.ClientError, OSError, ValueError, EOFError) as error:
        problem = f"{named} got no answer ({type(error).__name__}: {error})"
        raise CallError(problem, "unreachable", Retry.LATER) from None
    text = _decoded(content[: request.max_bytes], response.charset or "utf-8")
    return Fetched(response.status, response.headers, text, len(content) > request.max_bytes)


def fetch_now(request: Outgoing) -> Fetched:
    """`fetch`, for a program that is not asynchronous or whose loop is at work. Raises CallError."""
    return _result_of(fetch(request))


def fetch_file(url: str, timeout_s: float, max_bytes: int) -> Fetched:
    """The file at an address, redirects followed. Raises CallError, also for another status than 2xx."""
    return _result_of(_follow(url, timeout_s, max_bytes))


def _result_of(asked: Coroutine[Any, Any, T]) -> T:
    """What a coroutine returns, in a loop of its own; Ctrl+C waits for none."""
    threads = DaemonThreads(1, "fetch")
    try:
        return threads.submit(asyncio.run, asked).result()
    finally:
        threads.shutdown()


async def _follow(address: str, timeout_s: float, max_bytes: int) -> Fetched:
    try:
        async with asyncio.timeout(timeout_s):
            url = URL(address)
            for _ in range(_MOST_REDIRECTS + 1):
                answer = await fetch(Outgoing("GET", str(url), timeout_s=timeout_s, max_bytes=max_bytes))
                location = answer.headers.get("Location")
                if answer.is_good and not answer.is_cut:
                    return answer
                if answer.is_good:
                    raise CallError(f"it has more than {max_bytes >> 20} MiB", "size")
                if not 300 <= answer.status < 400 or not location:
                    raise CallError(f"HTTP status {answer.status}", "status", status=answer.status)
                url = _redirect(url, location)
            raise CallError(f"it has moved more than {_MOST_REDIRECTS} times", "redirect")
    except TimeoutError:
        raise CallError(f"it took longer than {timeout_s:g} s", "timeout", Retry.LATER) from None
    except ValueError as error:
        raise CallError(f"its address cannot be read ({error})", "unreachable") from None


def _redirect(url: URL, location: str) -> URL:
    """Where an answer leads to; user and password are taken to no other host."""
    target = url.join(URL(location))
    if target.scheme not in ("http", "https") or (url.scheme == "https" and target.scheme != "https"):
        problem = f"it has moved to an address that begins with {target.scheme}:, which is not followed"
        raise CallError(problem, "redirect")
    target = target.with_user(None)
    is_same = (target.scheme, target.host, target.port) == (url.scheme, url.host, url.port)
    return target.with_user(url.user).with_password(url.password) if is_same else target


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for an address; this machine needs none.

    `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY`, in capitals or not, are read at each call.
    """
    host = url.host or ""
    return None if host in _LOOPBACK or proxy_bypass(host) else getproxies().get(url.scheme)


async def read_up_to(response: aiohttp.ClientResponse, max_bytes: int) -> bytes | None:
    """The whole body, unpacked; `None` where it is longer than `max_bytes`, most of which is not read then."""
    if is_short(response, max_bytes):
        return await response.read()
    content = await _read(response, max_bytes)
    return None if len(content) > max_bytes else content


def is_short(response: aiohttp.ClientResponse, max_bytes: int) -> bool:
    """Whether the body is known to have at most so many bytes before any of it is read."""
    length = response.content_length
    return length is not None and length <= max_bytes and "Content-Encoding" not in response.headers


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        content += piece
        if len(content) > max_bytes:
            response.close()
            break
    return bytes(content)


def _decoded(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset, errors="replace")
    except (LookupError, ValueError):  # no such charset, or one that cannot be lenient
        return content.decode(errors="replace")
