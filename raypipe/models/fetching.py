"""I send one HTTP request and give what came back, within bounds of time and size.

I do not know what it is for, and I send it once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.request import getproxies, proxy_bypass

import aiohttp
import orjson
from yarl import URL

from raypipe.errors import CallError, Retry

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_PIECE_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class Outgoing:
    """What is sent. Redirects are not followed: headers may hold a key for one server alone."""

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
    """What came back, with whatever status."""

    status: int
    headers: Mapping[str, str]
    text: str
    is_cut: bool
    """Whether there was more than `max_bytes`."""

    @property
    def is_good(self) -> bool:
        return 200 <= self.status < 300


async def fetch(request: Outgoing) -> Fetched:
    """What the server answers. Raises CallError when there is no answer."""
    url, headers = URL(request.url), {"User-Agent": "raypipe", **request.headers}
    body = None if request.body is None else orjson.dumps(request.body, default=str)
    if body is not None:
        headers.setdefault("Content-Type", "application/json")
    named = f"{request.method} {url.with_query(None)}"
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
    except (aiohttp.ClientError, OSError, ValueError) as error:
        problem = f"{named} got no answer ({type(error).__name__}: {error})"
        raise CallError(problem, "unreachable", Retry.LATER) from None
    text = _decoded(content[: request.max_bytes], response.charset or "utf-8")
    return Fetched(response.status, response.headers, text, len(content) > request.max_bytes)


def proxy_for(url: URL) -> str | None:
    """The proxy that the environment names for an address; this machine needs none."""
    host = url.host or ""
    return None if host in _LOOPBACK or proxy_bypass(host) else getproxies().get(url.scheme)


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    content = bytearray()
    async for piece in response.content.iter_chunked(_PIECE_BYTES):
        content += piece
        if len(content) > max_bytes:
            break
    return bytes(content)


def _decoded(content: bytes, charset: str) -> str:
    try:
        return content.decode(charset, errors="replace")
    except LookupError:
        return content.decode(errors="replace")
