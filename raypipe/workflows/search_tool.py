"""Searches the web through a service with Serper's interface.

Knows nothing of what becomes of the results. A search is logged like an answer; one that fails for a reason that may
pass is tried again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast
from urllib.parse import urlsplit

import orjson

from raypipe.contracts.llm import Caller
from raypipe.errors import CallError, Retry, RowError, nearest
from raypipe.security.secrets import redact_address, remove_secrets

KIND = "search"
"""The kind of failure of a row for which a search failed."""
_FOUND_UNDER = {"search": "organic", "news": "news", "scholar": "organic"}
"""Type of search → key of the results in the service's answer."""
OWN_HOSTS = {"SERPER_API_KEY": ("google.serper.dev",)}
"""Environment variable → hosts of the service that its key is for."""
_MOST_RESULTS = 100
_TIMEOUT_S = 30.0
_MAX_BYTES = 2**22
_SHOWN = 200
_SHOWN_KEYS = ("title", "link", "snippet")


@dataclass(frozen=True, slots=True)
class Search:
    """Options of a task that searches."""

    search_type: str = "search"
    """`search`, `news` or `scholar`."""
    lang: str = "en"
    """Language of the results."""
    n_results: int = 5
    """Most results, 1 to 100."""

    def problems(self) -> Iterator[str]:
        """What is wrong with it."""
        if self.search_type not in _FOUND_UNDER:
            hint = nearest(str(self.search_type), sorted(_FOUND_UNDER))
            yield f"search_type: there is no search {self.search_type!r}{hint}"
        if not isinstance(self.lang, str) or not self.lang:  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f'lang is a language such as "en", got {self.lang!r}'
        count = self.n_results
        if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= _MOST_RESULTS:  # pyright: ignore[reportUnnecessaryIsInstance]
            yield f"n_results is a whole number from 1 to {_MOST_RESULTS}, got {count!r}"


@dataclass(frozen=True, slots=True)
class SearchService:
    """Where searches are sent: an address with the interface of serper.dev, and the environment variable of its key."""

    base_url: str = field(default="https://google.serper.dev", repr=False)
    api_key_env: str = "SERPER_API_KEY"

    def unsound(self) -> Iterator[str]:
        """What is wrong with it on any machine."""
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            shown = redact_address(self.base_url, every=True)
            yield f"set_search: base_url begins with http:// or https:// and a host, got {shown!r}"
        elif parts.username or parts.password or parts.query or parts.fragment:
            yield "set_search: base_url carries more than an address; name the variable with the key in api_key_env"
        if not self.api_key_env.isidentifier():
            yield "set_search: api_key_env is the name of an environment variable, not the key"

    def problems(self) -> list[str]:
        """What it needs and this machine lacks."""
        if os.environ.get(self.api_key_env, "").strip():
            return []
        hint = "set it, or name another with set_search(api_key_env=…)"
        return [f"searches at {self.base_url} with the key in {self.api_key_env}, which is not set; {hint}"]

    async def search(self, llm: Caller, search: Search, query: str) -> str:
        """The results, as a JSON list of `{"title", "link", "snippet"}`. Raises RowError (`search`)."""
        if not query.strip():
            raise RowError("the search has an empty query", kind=KIND)
        asked = {"q": query, "hl": search.lang, "num": search.n_results}
        payload = {"service": self.base_url, "search_type": search.search_type, **asked}
        played = [{"title": query, "link": f"{self.base_url}/{n}", "snippet": query} for n in range(search.n_results)]
        work = partial(self._send, search, asked)
        return await llm.recorded("search", payload, work, orjson.dumps(played).decode())

    async def _send(self, search: Search, asked: dict[str, Any]) -> str:
        """The results. Raises RowError, or CallError for a status that the caller may try again."""
        from raypipe.models.http_errors import pause_s
        from raypipe.storage.http import Outgoing, fetch

        for problem in self.problems():
            raise RowError(problem, kind=KIND)
        key = os.environ[self.api_key_env].strip()
        url = f"{self.base_url.rstrip('/')}/{search.search_type}"
        outgoing = Outgoing("POST", url, (), {"X-API-KEY": key}, asked, _TIMEOUT_S, _MAX_BYTES)
        answer = await fetch(outgoing)
        text = remove_secrets(answer.text, [key])
        excerpt = " ".join(text.split())[:_SHOWN]
        if answer.is_good:
            return _read_results(text, search, f"the search at {url} answered with no list of results: {excerpt}")
        passes = answer.status == 429 or answer.status >= 500
        retry, hint = (Retry.SLOW_DOWN if answer.status == 429 else Retry.LATER) if passes else Retry.NEVER, ""
        if answer.status in (401, 403):
            hint = f"; check the key in {self.api_key_env}"
        problem = f"the search at {url} answered {answer.status}{f': {excerpt}' if excerpt else ''}{hint}"
        raise CallError(problem, KIND, retry, pause_s(answer.headers), answer.status)


def _read_results(text: str, search: Search, problem: str) -> str:
    """The results in a service's answer. Raises RowError (`problem`) where it has none."""
    try:
        listed = orjson.loads(text)[_FOUND_UNDER[search.search_type]]
        results = [{name: str(one.get(name, "")) for name in _SHOWN_KEYS} for one in cast("list[Any]", listed)]
    except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
        raise RowError(problem, kind=KIND) from None
    return orjson.dumps(results[: search.n_results]).decode()
