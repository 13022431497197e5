"""Classifies what an HTTP endpoint said instead of an answer.

Knows nothing of who asked or whether anyone tries again: turns a status, headers and a body into a `CallError` whose
message names the model and the address and never holds a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, cast

import orjson

from raypipe.contracts.llm import Completion
from raypipe.errors import CallError, Retry
from raypipe.models.durations import number_of, seconds_of
from raypipe.security.secrets import remove_secrets

MAX_SAID = 300
"""Longest part of an endpoint's own words that a message repeats, in characters."""

_LONG_KEY = 12
"""Characters of what no answer has by chance."""
_REDIRECTS = range(300, 400)
_TOO_MANY = 429
_SERVER_ERROR = 500
_PASSING = frozenset({408, 409, 425})
_NEVER = {401: "auth", 402: "quota", 403: "auth", 404: "not_found"}
_QUOTA = "insufficient_quota"
_FILTER_STATUSES = frozenset({200, 400, 403, 422, 451})
_FILTER_CODES = frozenset(
    (
        "content_filter",
        "content_policy_violation",
        "responsibleaipolicyviolation",
        "invalid_prompt",
        "moderation_blocked",
        "data_inspection_failed",
        "datainspectionfailed",
    )
)
"""How OpenAI, Azure and Alibaba name a request that their content filter stopped, in lower case."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a call goes, as messages may name it. `key` is only held to be kept out of them."""

    label: str
    url: str
    key_env: str | None = None
    key: str = field(default="", repr=False)

    @property
    def identity(self) -> str:
        """Tells endpoints and keys apart without giving a key away."""
        return f"{self.url} {blake2b(self.key.encode(), digest_size=8).hexdigest()}"

    def error(
        self, problem: str, kind: str, retry: Retry = Retry.LATER, after_s: float | None = None, status: int = 0
    ) -> CallError:
        """The error whose `problem` continues the sentence `model … at …`; without `status` there was no answer."""
        return CallError(self._redacted(f"model {self.label!r} at {self.url} {problem}"), kind, retry, after_s, status)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> CallError:
        """The error that an HTTP status other than 200 stands for."""
        # Some endpoints repeat the key.
        said, code = _said(body.replace(self.key.encode(), b"[key]") if self.key else body)
        kind, retry = _class_of(status, code)
        after_s = pause_s(headers) if retry is not Retry.NEVER else None
        # Redacted before it is cut: half a key would no longer be found.
        said = " ".join(self._redacted(said).split())
        said = said if len(said) <= MAX_SAID else said[: MAX_SAID - 1] + "…"
        problem = f"answered {status}" + (f": {said}" if said else "") + self._next_step(status, kind)
        return self.error(problem, kind, retry, after_s, status)

    def filtered(self, status: int, body: bytes) -> str | None:
        """What is said of a request that a content filter stopped; `None` where the answer is another error."""
        if status not in _FILTER_STATUSES or (said := _said_by_filter(body)) is None:
            return None
        said = " ".join(self._redacted(said).split())
        return said if len(said) <= MAX_SAID else said[: MAX_SAID - 1] + "…"

    def without_long_key(self, answer: bytes) -> bytes:
        """An answer without the key; what is short, such as `EMPTY`, opens nothing and may be a word of the answer."""
        return answer.replace(self.key.encode(), b"[key]") if len(self.key) >= _LONG_KEY else answer

    def without_long_key_in(self, found: Completion) -> Completion:
        """The same where the key stood in an answer under another spelling of JSON's."""
        if len(self.key) < _LONG_KEY:
            return found
        text, model = self._redacted(found.text), self._redacted(found.model)
        reason = self._redacted(found.finish_reason)
        is_clean = (text, model, reason) == (found.text, found.model, found.finish_reason)
        return found if is_clean else found._replace(text=text, model=model, finish_reason=reason)

    def _redacted(self, text: str) -> str:
        return remove_secrets(text, [self.key], "[key]") if self.key else text

    def _next_step(self, status: int, kind: str) -> str:
        if kind == "auth":
            return f"; check the key in {self.key_env}" if self.key_env else "; name the key's variable in api_key_env"
        if kind == "quota":
            return "; add credit at the provider or use another model"
        if kind == "not_found":
            return "; check the model's name and base_url"
        return "; write the address it moved to in base_url" if status in _REDIRECTS else ""


_RESETS = (
    ("x-ratelimit-remaining", "x-ratelimit-reset"),
    ("ratelimit-remaining", "ratelimit-reset"),
    ("x-rate-limit-remaining", "x-rate-limit-reset"),
    ("x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"),
    ("x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"),
    ("anthropic-ratelimit-requests-remaining", "anthropic-ratelimit-requests-reset"),
    ("anthropic-ratelimit-tokens-remaining", "anthropic-ratelimit-tokens-reset"),
)
"""What is left of a quota, and when it is whole again."""
_SHORT_S = 60.0
"""A quota of a minute gives way bit by bit, long before it is whole: the pace finds that by itself."""


def pause_s(headers: Mapping[str, str]) -> float | None:
    """Seconds the endpoint asks to wait, from `retry-after-ms` or `Retry-After` (RFC 9110, 10.2.3).

    Where it says neither, until the quota of which nothing is left is whole again.
    """
    exact_s = seconds_of(headers.get("retry-after-ms"), unit_s=0.001)
    if exact_s is not None:
        return exact_s
    after_s = seconds_of(headers.get("Retry-After"))
    if after_s is not None:
        return after_s
    found = [seconds_of(headers.get(reset)) for left, reset in _RESETS if number_of(headers.get(left)) == 0]
    return max((reset_s for reset_s in found if reset_s is not None and reset_s > _SHORT_S), default=None)


def _class_of(status: int, code: str) -> tuple[str, Retry]:
    if status == _TOO_MANY:
        return ("quota", Retry.NEVER) if code == _QUOTA else ("rate_limit", Retry.SLOW_DOWN)
    if status in _PASSING or status >= _SERVER_ERROR:
        return "server", Retry.LATER
    return _NEVER.get(status, "rejected"), Retry.NEVER


def _said(body: bytes) -> tuple[str, str]:
    """The endpoint's own sentence and its error code, as far as the body has them."""
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return re.sub(r"<[^>]*>", " ", body[:4096].decode("utf-8", "replace")).strip(), ""
    # Gemini's compatible endpoint puts the error in a list.
    outer = _mapping(cast("list[Any]", content)[0] if isinstance(content, list) and content else content)
    error = outer.get("error", outer)
    fields = _mapping(error)
    said = fields.get("message") or fields.get("detail") or ("" if fields else error)
    is_quota = _QUOTA in (fields.get("code"), fields.get("type"))
    return str(said or ""), _QUOTA if is_quota else ""


def _said_by_filter(body: bytes) -> str | None:
    """The endpoint's own sentence where its content filter stopped a request; `None` where the error is another."""
    try:
        content: Any = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    error = _mapping(_mapping(content).get("error"))
    inner, more = _mapping(error.get("innererror")), _mapping(error.get("metadata"))
    codes = [error.get("code"), error.get("type"), inner.get("code")]
    is_filter = any(isinstance(code, str) and code.lower() in _FILTER_CODES for code in codes)
    # OpenRouter's moderation has the status of a key that may not be used.
    return _said(body)[0] if is_filter or ("flagged_input" in more and "reasons" in more) else None


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}
