"""Plays a model: its delay, its failures, its token counts.

Knows nothing of what makes an answer plausible; `free_text` and `schema` do. Everything follows from the digest of the
request, except that a request which fails at first passes later.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Any, cast

import orjson
from pydantic import Field

from raypipe.contracts.declaration import Spec
from raypipe.contracts.llm import LLM, Completion, Request, Usage
from raypipe.contracts.model import EndpointLimits, EngineFigures, Payload
from raypipe.errors import CallError, Retry, Violation
from raypipe.identity import canonical_json, digest
from raypipe.models.offline import free_text
from raypipe.models.offline.pattern import text_for
from raypipe.models.offline.prompt import Prompt
from raypipe.models.offline.schema import value_for
from raypipe.models.offline.vectors import embedding, scores
from raypipe.models.pooling import numbers_payload
from raypipe.models.presets import check_options
from raypipe.models.request_body import RequestWriter
from raypipe.models.tool_calls import TOOL_CALLS

_CHARS_PER_TOKEN = 4
_MOST_FAILING_TRIES = 2
_NORMAL = NormalDist()


class OfflineOptions(Spec):
    """`LLM.options` of `offline/…`."""

    latency_s: float = Field(default=0.0, ge=0)
    """Mean time to an answer, in seconds."""
    latency_sigma: float = Field(default=0.0, ge=0)
    """Sigma of the log-normal latency; 0: every answer takes `latency_s`."""
    fail_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the requests that fail once or twice and pass when tried again."""
    reject_share: float = Field(default=0.0, ge=0, le=1)
    """Share of the requests that are refused, however often they are tried."""
    output_tokens: int | None = Field(default=None, gt=0)
    """Length of every answer to a request without schema; it is prose then, whatever form was asked for."""
    answers: list[Any] | dict[str, Any] | None = Field(default=None, min_length=1)
    """Answers to choose from, or the answer by a text that stands in the prompt. What is no text is sent as JSON."""


class OfflineModel(RequestWriter):
    """A deterministic stand-in; implements `Model`.

    Raises SpecError when `llm.options` are not understood.
    """

    def __init__(self, llm: LLM) -> None:
        self._options = OfflineOptions(**llm.options)
        deciding = [self._options.output_tokens, self._options.answers]
        # Other answers are another model: a recorded call must not stand for them.
        is_another = any(option is not None for option in deciding)
        self._stand_in = {"stand_in": digest(canonical_json(deciding)).hex()} if is_another else {}
        super().__init__(llm, self._stand_in)
        self._failures: dict[bytes, int] = {}

    @staticmethod
    def check(llm: LLM) -> list[Violation]:
        """What is wrong with `llm`."""
        return check_options(llm, OfflineOptions)

    def endpoint_limits(self) -> EndpointLimits:
        """It has no endpoint and no limits."""
        return EndpointLimits()

    async def open(self) -> None:
        """Nothing to get ready."""

    async def close(self) -> None:
        """Nothing to give back."""

    def _numbers(self, request: Request) -> Payload:
        wanted = {} if request.numbers is None else {"numbers": request.numbers}
        return numbers_payload(self._llm, request, wanted | self._stand_in)

    def _schema_fields(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        return {"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}}

    def _varied_seed(self, variant: int) -> int:
        return (self._llm.seed or 0) + variant

    def figures(self) -> EngineFigures | None:
        """It has no engine."""
        return None

    async def complete(self, payload: Payload, key: bytes = b"") -> Completion:
        """Answer it. Raises CallError as `options` and an impossible schema demand."""
        body, key = payload.body, digest(canonical_json(payload.body))
        await self._wait(key)
        self._fail(key)
        text = body.get("prompt") or body.get("input") or ""
        prompt = Prompt.of(body["messages"]) if "messages" in body else Prompt.of_text(text)
        turn = int.from_bytes(key[12:])
        answer = _fixed_answer(self._options.answers, prompt, turn)
        return self._completion(payload, prompt, self._invented(payload, prompt, turn) if answer is None else answer)

    async def _wait(self, key: bytes) -> None:
        options = self._options
        latency_s = options.latency_s
        if latency_s and options.latency_sigma:
            z = _NORMAL.inv_cdf(_share(key[0:4]))
            latency_s *= math.exp(options.latency_sigma * z - options.latency_sigma**2 / 2)
        await asyncio.sleep(min(latency_s, self._llm.timeout_s))
        if latency_s > self._llm.timeout_s:
            raise self._error(f"gave no answer within {self._llm.timeout_s:g} s", "timeout", Retry.LATER, 0)

    def _fail(self, key: bytes) -> None:
        if _share(key[4:8]) < self._options.reject_share:
            raise self._error("answered 400, as its reject_share asks", "rejected", Retry.NEVER, 400)
        if _share(key[8:12]) >= self._options.fail_share:
            return
        failed = self._failures.get(key, 0)
        if failed < 1 + key[0] % _MOST_FAILING_TRIES:
            self._failures[key] = failed + 1
            raise self._error("answered 500, as its fail_share asks", "server", Retry.LATER, 500)

    def _error(self, problem: str, kind: str, retry: Retry, status: int) -> CallError:
        return CallError(f"model {self._llm.label!r} {problem}", kind, retry, None, status)

    def _invented(self, payload: Payload, prompt: Prompt, turn: int) -> Any:
        """A text, or a value that is sent as JSON."""
        body = payload.body
        if body.get("tools") and (_must_call(body) or not _has_results(body.get("messages", ()))):
            tool = body["tools"][turn % len(body["tools"])]["function"]
            return [{"name": tool["name"], "arguments": value_for(tool["parameters"], prompt, turn)}]
        if payload.kind == "embed":
            return embedding(prompt.all_text, body.get("numbers"))
        if payload.kind == "score":
            return scores(body, body.get("numbers"))
        if "structured_outputs" in body:
            return _text_of_form(body["structured_outputs"], prompt, turn)
        response_format = body.get("response_format") or {}
        kind = response_format.get("type")
        if kind == "json_schema":
            return value_for(response_format["json_schema"]["schema"], prompt, turn)
        if kind == "json_object":
            return free_text.json_object(prompt, turn)
        if self._options.output_tokens:
            return free_text.prose_of(prompt, turn, self._options.output_tokens * _CHARS_PER_TOKEN)
        return free_text.answer(prompt, turn)

    def _completion(self, payload: Payload, prompt: Prompt, answer: Any) -> Completion:
        body, gives_numbers = payload.body, payload.kind in ("embed", "score")
        calls = body.get("tools") and (_must_call(body) or _is_calls(answer))
        text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
        for mark in body.get("stop") or ():
            text = text.partition(mark)[0]
        finish_reason, longest = TOOL_CALLS if calls else "stop", body.get("max_tokens")
        if longest is not None and _tokens(text) > longest:
            text, finish_reason = text[: longest * _CHARS_PER_TOKEN], "length"
        usage = Usage(_tokens(prompt.all_text), 0 if gives_numbers else _tokens(text))
        return Completion(text, finish_reason, usage, self._llm.model)


def _fixed_answer(answers: list[Any] | dict[str, Any] | None, prompt: Prompt, turn: int) -> Any:
    if isinstance(answers, dict):
        return next((answer for part, answer in answers.items() if part in prompt.all_text), None)
    return answers[turn % len(answers)] if answers else None


def _text_of_form(form: Mapping[str, Any], prompt: Prompt, turn: int) -> str:
    """A text of the form; to a grammar, which it cannot read, it answers in its own words."""
    if "choice" in form:
        return form["choice"][turn % len(form["choice"])]
    found = text_for(f"^(?:{form['regex']})$", turn) if "regex" in form else None
    return free_text.answer(prompt, turn) if found is None else found


def _must_call(body: Mapping[str, Any]) -> bool:
    return body["tool_choice"] == "required"


def _has_results(messages: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the tools were called since the user spoke."""
    roles = [message.get("role") for message in messages]
    return "tool" in roles[len(roles) - roles[::-1].index("user") if "user" in roles else 0 :]


def _is_calls(answer: Any) -> bool:
    calls = cast("list[Any]", answer) if isinstance(answer, list) else []
    return bool(calls) and all(isinstance(call, dict) and {"name", "arguments"} <= call.keys() for call in calls)


def _share(part: bytes) -> float:
    """Four digest bytes as a number strictly between 0 and 1."""
    return (int.from_bytes(part) + 0.5) / 2**32


def _tokens(text: str) -> int:
    return -(-len(text) // _CHARS_PER_TOKEN)
