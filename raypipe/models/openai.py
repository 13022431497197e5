"""Gets completions from any endpoint that speaks OpenAI's chat API, and from some for prompts without chat template.

Knows nothing of which providers there are (`presets` does), nor of when a call may be sent or whether it is tried
again. All that is the same for every call is made once: a call costs little more than aiohttp itself.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple, cast

import aiohttp
import orjson
from yarl import URL

from raypipe.contracts.llm import FILTERED, LLM, REFUSAL, Completion, Request, Usage
from raypipe.contracts.model import EndpointLimits, EngineFigures, Kind, Payload, Quota
from raypipe.errors import CallError, InfrastructureError, Retry, SpecError
from raypipe.models import capabilities, presets
from raypipe.models.answers import completion, counted
from raypipe.models.constrained_text import unwrapped
from raypipe.models.http_errors import Endpoint
from raypipe.models.pooling import numbers_completion
from raypipe.models.quotas import named_quota
from raypipe.models.raw_prompts import plain_completion, plain_payload
from raypipe.models.request_body import RequestWriter
from raypipe.models.tool_calls import TOOL_CALLS, calls_text
from raypipe.storage.http import is_short, proxy_for, read_up_to

# aiohttp warns about larger bodies given as bytes.
_LARGE_BYTES = 2**20
# Servers close idle connections after 5 s (uvicorn) or later; leaving first avoids sending on a closing one.
_IDLE_S = 4.0
_OK = 200
_BAD_GATEWAY = 502
_ERRORS = range(400, 600)
_LEAST_BYTES, _BYTES_A_TOKEN, _BYTES_A_TOKEN_WITH_LOGPROBS = 2**22, 2**8, 2**12
"""Of an answer: what stands around its text, and what one token may come to, with twenty others and their logprobs."""
_USUAL_TOKENS, _MOST_TOKENS = 2**14, 2**17
"""Of an answer: where neither the model nor the request says it, and at most."""


class _Door(NamedTuple):
    """An address to post to, as a URL and as messages name it."""

    url: URL
    endpoint: Endpoint


class OpenAIModel(RequestWriter):
    """A model behind an OpenAI-compatible endpoint; implements `Model`.

    Raises SpecError when `llm.options` are not understood.
    """

    def __init__(self, llm: LLM) -> None:
        options = presets.options_of(llm)(**llm.options)
        preset = presets.PRESETS[llm.provider]
        super().__init__(llm, limit=options.completion_limit or preset.completion_limit, seed=preset.seed)
        self._is_strict = options.strict_schema
        self._wraps_forms = not preset.is_vllm
        self._plain_way: presets.PlainWay | None = presets.plain_way(llm)
        urls = presets.urls_of(llm)
        unopened = _Door(URL(), Endpoint(llm.label, urls["chat"], presets.key_env(llm)))
        self._doors: dict[Kind, _Door] = dict.fromkeys(urls, unopened)
        self._session: aiohttp.ClientSession | None = None
        self._headers: Mapping[str, str] = {}
        self._named: tuple[object, Quota] = (None, Quota())
        self._declared = Quota(
            llm.requests_per_minute, llm.tokens_per_minute, llm.input_tokens_per_minute, llm.output_tokens_per_minute
        )

    check = staticmethod(presets.check)

    async def open(self) -> None:
        """Read key and address from the environment; nothing is sent."""
        violations = presets.check(self._llm)
        if violations:
            raise InfrastructureError("\n".join(map(str, violations)))
        key = presets.read_key(self._llm)
        urls = presets.urls_of(self._llm)
        chat = Endpoint(self._llm.label, urls["chat"], presets.key_env(self._llm), key)
        self._doors = {kind: _Door(URL(url), replace(chat, url=url)) for kind, url in urls.items()}
        # Answers are short: unpacking them would cost more than reading them.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "raypipe"}
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=_IDLE_S),
            timeout=aiohttp.ClientTimeout(
                total=self._llm.timeout_s, connect=self._llm.connect_timeout_s, sock_read=self._llm.read_timeout_s
            ),
            headers=headers | {"Authorization": f"Bearer {key}"} if key else headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            proxy=proxy_for(self._doors["chat"].url),
        )

    async def close(self) -> None:
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    def endpoint_limits(self) -> EndpointLimits:
        """The endpoint and key; rates as declared, or as the last answer's headers named them."""
        headers, quota = self._named
        if headers is not self._headers:
            quota = named_quota(self._headers, self._llm.provider)
            self._named = self._headers, quota
        refuses = not presets.PRESETS[self._llm.provider].queues
        return EndpointLimits(self._doors["chat"].endpoint.identity, refuses, self._declared.over(quota))

    def _check(self, request: Request) -> None:
        problem = capabilities.refusal(self._llm, request)
        if problem is not None:
            raise SpecError.of(f"model {self._llm.label!r}", problem)

    def _prompt(self, request: Request) -> Payload:
        assert self._plain_way is not None
        return plain_payload(self._llm, request, self._plain_way, self._seed)

    def _schema_fields(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        name = re.sub(r"[^A-Za-z0-9_-]+", "_", str(schema.get("title") or ""))[:64] or "answer"
        described = {"name": name, "schema": schema, "strict": self._is_strict}
        return {"response_format": {"type": "json_schema", "json_schema": described}}

    def figures(self) -> EngineFigures | None:
        """It runs elsewhere."""
        return None

    async def complete(self, payload: Payload, key: bytes = b"") -> Completion:
        """Send it once. Raises CallError, classified; never retries."""
        session = self._session
        if session is None:
            raise InfrastructureError(f"model {self._llm.label!r} is not open")
        content, kind = payload
        body = orjson.dumps(content, default=dict)
        door = self._doors[kind]
        try:
            async with session.post(
                door.url, data=body if len(body) < _LARGE_BYTES else io.BytesIO(body), allow_redirects=False
            ) as response:
                if is_short(response, _LEAST_BYTES):
                    answer = await response.read()
                else:
                    answer = await read_up_to(response, _most_bytes(content))
                self._headers = response.headers
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, EOFError) as error:
            raise self._broken(door.endpoint, error) from None
        if answer is None:
            problem = f"answered with more than {_most_bytes(content):,} bytes, which is no completion of this length"
            raise door.endpoint.error(f"{problem}; check base_url", "broken_answer", Retry.NEVER)
        answer = door.endpoint.without_long_key(answer)
        if response.status != _OK:
            return self._filtered(door.endpoint, answer, response.status, response.headers)
        if kind in ("chat", "wrapped"):
            found = self._completion(door.endpoint, answer, "tools" in content)
            found = door.endpoint.without_long_key_in(found)
            return found if kind == "chat" else unwrapped(found)
        read = plain_completion if kind == "prompt" else numbers_completion
        try:
            found = read(orjson.loads(answer), self._llm.model)
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            raise _without_choice(door.endpoint, answer) from None
        return door.endpoint.without_long_key_in(found)

    def _completion(self, endpoint: Endpoint, answer: bytes, may_call: bool) -> Completion:
        try:
            content = orjson.loads(answer)
            choice = content["choices"][0]
            message = choice["message"]
            text, refusal = message.get("content"), message.get("refusal")
            finish_reason = choice.get("finish_reason")
            if may_call and message.get("tool_calls"):
                text = calls_text(message["tool_calls"])
                finish_reason = "length" if finish_reason == "length" else TOOL_CALLS
            if type(text) is not str:
                text, refusal = _joined(text, refusal)
            if refusal and (type(refusal) is str or not text):
                text, finish_reason = refusal if type(refusal) is str else "", REFUSAL
            usage, model = counted(content.get("usage")), content.get("model")
        except (orjson.JSONDecodeError, LookupError, TypeError, AttributeError):
            return self._filtered(endpoint, answer)
        return completion(text, finish_reason, usage, model, self._llm.model)

    def _filtered(
        self, endpoint: Endpoint, answer: bytes, status: int = _OK, headers: Mapping[str, str] | None = None
    ) -> Completion:
        """What was answered in place of a completion, where a content filter did so. Raises CallError for the rest."""
        said = endpoint.filtered(status, answer)
        if said is not None:
            return completion(said, FILTERED, Usage(), None, self._llm.model)
        raise (_without_choice(endpoint, answer) if status == _OK else endpoint.refusal(status, headers or {}, answer))

    def _broken(self, endpoint: Endpoint, error: Exception) -> CallError:
        said = type(error).__name__
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            return endpoint.error(
                f"took no connection within {self._llm.connect_timeout_s:g} s; check base_url", "unreachable"
            )
        if isinstance(error, aiohttp.SocketTimeoutError) and self._llm.read_timeout_s is not None:
            problem = f"was silent for {self._llm.read_timeout_s:g} s; raise read_timeout_s if answers take that long"
            return endpoint.error(problem, "timeout")
        if isinstance(error, TimeoutError):
            problem = f"gave no answer within {self._llm.timeout_s:g} s; raise timeout_s if answers take that long"
            return endpoint.error(problem, "timeout")
        if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ServerFingerprintMismatch):
            problem = f"cannot be reached ({said}: {error}); check base_url and that the server runs"
            return endpoint.error(problem, "unreachable")
        return endpoint.error(f"broke off its answer ({said})", "broken_answer")


def _joined(content: Any, refusal: Any) -> tuple[str, Any]:
    """The text of a content that is none by itself, and the refusal that stands beside it or in one of its parts."""
    if not isinstance(content, list):
        return "", refusal
    parts = cast("list[dict[str, Any]]", content)
    refused = refusal or "".join(str(part.get("refusal") or "") for part in parts)
    return "".join(str(part.get("text") or "") for part in parts), refused


def _most_bytes(payload: Mapping[str, Any]) -> int:
    """Longest answer that a request can have; what is longer is no answer to it, and is not read to its end."""
    tokens: Any = payload.get("max_tokens") or payload.get("max_completion_tokens")
    if type(tokens) is not int:
        inner = payload.get("options")
        tokens = cast("dict[str, Any]", inner).get("num_predict") if isinstance(inner, dict) else None
    tokens = tokens if type(tokens) is int else _USUAL_TOKENS
    each = _BYTES_A_TOKEN_WITH_LOGPROBS if payload.get("logprobs") else _BYTES_A_TOKEN
    return _LEAST_BYTES + each * min(max(0, tokens), _MOST_TOKENS)


def _without_choice(endpoint: Endpoint, answer: bytes) -> CallError:
    try:
        error: Any = orjson.loads(answer)["error"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        problem = f"answered with {len(answer)} bytes that hold no completion"
        return endpoint.error(problem, "broken_answer")
    # OpenRouter reports a failure behind it as status 200 with the real status inside.
    code: Any = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
    if type(code) is int and code in _ERRORS:
        return endpoint.refusal(code, {}, answer)
    said = endpoint.refusal(_BAD_GATEWAY, {}, answer)
    said.status = _OK  # nothing says that the model did not work on it
    return said
