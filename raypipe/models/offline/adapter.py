"""Plays a model: its delay, its failures, its token counts.

Knows nothing of what makes an answer plausible; `free_text` and `schema` do. Everything follows from the digest of the
request, except that a request which fails at first passes later.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from functools import partial
from statistics import NormalDist
from typing import Any, cast

import orjson
from pydantic import Field

from raypipe.contracts.declaration import Spec
from raypipe.contracts.llm import LLM, Completion, Request, Usage
from raypipe.contracts.model import EndpointLimits, EngineFigures, Payload
from raypipe.errors import CallError, Retry
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

    check = staticmethod(partial(check_options, options=OfflineOptions))

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
        await self._delay_or_fail(key)
        text = body.get("prompt") or body.get("input") or ""
        prompt = Prompt.of(body["messages"]) if "messages" in body else Prompt.of_text(text)
        turn = int.from_bytes(key[12:])
        answers, answer = self._options.answers, None
        if isinstance(answers, dict):
            answer = next((answer for part, answer in answers.items() if part in prompt.all_text), None)
        elif answers:
            answer = answers[turn % len(answers)]
        return self._completion(payload, prompt, self._invented(payload, prompt, turn) if answer is None else answer)

    async def _delay_or_fail(self, key: bytes) -> None:
        """Wait as `options` ask. Raises CallError for the requests that fail: some always, some once or twice."""
        # Four bytes of the digest each, as a number strictly between 0 and 1.
        slow, rejected, failing = ((int.from_bytes(key[at : at + 4]) + 0.5) / 2**32 for at in (0, 4, 8))
        options, label = self._options, f"model {self._llm.label!r}"
        latency_s, timeout_s = options.latency_s, self._llm.timeout_s
        if latency_s and options.latency_sigma:
            latency_s *= math.exp(options.latency_sigma * _NORMAL.inv_cdf(slow) - options.latency_sigma**2 / 2)
        await asyncio.sleep(min(latency_s, timeout_s))
        if latency_s > timeout_s:
            raise CallError(f"{label} gave no answer within {timeout_s:g} s", "timeout", Retry.LATER, None, 0)
        if rejected < options.reject_share:
            raise CallError(f"{label} answered 400, as its reject_share asks", "rejected", Retry.NEVER, None, 400)
        failed = self._failures.get(key, 0)
        if failing < options.fail_share and failed < 1 + key[0] % _MOST_FAILING_TRIES:
            self._failures[key] = failed + 1
            raise CallError(f"{label} answered 500, as its fail_share asks", "server", Retry.LATER, None, 500)

    def _invented(self, payload: Payload, prompt: Prompt, turn: int) -> Any:
        """A text, or a value that is sent as JSON."""
        body = payload.body
        if body.get("tools") and _is_call_due(body):
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
        listed = cast("list[Any]", answer) if isinstance(answer, list) else []
        are_calls = all(isinstance(one, dict) and {"name", "arguments"} <= one.keys() for one in listed)
        is_call = body.get("tools") and (body["tool_choice"] == "required" or (listed and are_calls))
        text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
        for mark in body.get("stop") or ():
            text = text.partition(mark)[0]
        finish_reason, longest = TOOL_CALLS if is_call else "stop", body.get("max_tokens")
        read, written = (math.ceil(len(each) / _CHARS_PER_TOKEN) for each in (prompt.all_text, text))
        if longest is not None and written > longest:
            text, written, finish_reason = text[: longest * _CHARS_PER_TOKEN], longest, "length"
        return Completion(text, finish_reason, Usage(read, 0 if gives_numbers else written), self._llm.model)


def _text_of_form(form: Mapping[str, Any], prompt: Prompt, turn: int) -> str:
    """A text of the form; to a grammar, which it cannot read, it answers in its own words."""
    if "choice" in form:
        return form["choice"][turn % len(form["choice"])]
    found = text_for(f"^(?:{form['regex']})$", turn) if "regex" in form else None
    return free_text.answer(prompt, turn) if found is None else found


def _is_call_due(body: Mapping[str, Any]) -> bool:
    """Whether a tool is called: where one must be, and where none was since the user spoke."""
    if body["tool_choice"] == "required":
        return True
    roles = [message.get("role") for message in body.get("messages", ())]
    since = len(roles) - roles[::-1].index("user") if "user" in roles else 0
    return "tool" not in roles[since:]
