"""I play a model: its delay, its failures, its token counts.

I do not know what makes an answer plausible; `wording` and `schema` do. Everything I do follows from the digest
of the request, except that a request which fails at first passes later.
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
from raypipe.contracts.model import EngineFigures, Terms
from raypipe.errors import CallError, Retry, Violation
from raypipe.identity import canonical_json, digest
from raypipe.models.offline import free_text
from raypipe.models.offline.pattern import text_for
from raypipe.models.offline.prompt import Prompt
from raypipe.models.offline.schema import value_for
from raypipe.models.offline.vectors import embedding, scores
from raypipe.models.pooling import gives_numbers, is_embedding, numbers_payload
from raypipe.models.presets import check_options
from raypipe.models.tool_calls import TOOL_CALLS, offered

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


class OfflineModel:
    """A deterministic stand-in; implements `Model`.

    Raises SpecError when `llm.options` are not understood.
    """

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._options = OfflineOptions(**llm.options)
        self._constant = _constant_fields(llm, self._options)
        self._failures: dict[bytes, int] = {}

    @staticmethod
    def check(llm: LLM) -> list[Violation]:
        """What is wrong with `llm`."""
        return check_options(llm, OfflineOptions)

    def terms(self) -> Terms:
        """It has no endpoint and no limits."""
        return Terms()

    async def open(self) -> None:
        """Nothing to get ready."""

    async def close(self) -> None:
        """Nothing to give back."""

    def payload(self, request: Request) -> dict[str, Any]:
        """The request as an OpenAI body; what the request leaves open is taken from the `LLM`."""
        if request.pool is not None:
            wanted = {} if request.numbers is None else {"numbers": request.numbers}
            stand_in = {name: self._constant[name] for name in ("stand_in",) if name in self._constant}
            return numbers_payload(self._llm.model, request) | wanted | stand_in
        said = {"messages": list(request.messages)} if request.prompt is None else {"prompt": request.prompt}
        body = {**(offered(request) if request.tools else {}), **self._constant, **said}
        if request.stop:
            body["stop"] = [*self._llm.stop, *request.stop]
        if request.variant is not None:
            body["seed"] = (self._llm.seed or 0) + request.variant
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:
            body["max_tokens"] = request.max_tokens
        if request.schema is not None:
            body["response_format"] = {"type": "json_schema", "json_schema": {"schema": request.schema}}
        if request.form is not None:
            body["structured_outputs"] = dict(request.form)
        return body

    def figures(self) -> EngineFigures | None:
        """It has no engine."""
        return None

    async def complete(self, payload: Mapping[str, Any], key: bytes = b"") -> Completion:
        """Answer it. Raises CallError as `options` and an impossible schema demand."""
        key = digest(canonical_json(payload))
        await self._wait(key)
        self._fail(key)
        text = payload.get("prompt") or payload.get("input") or ""
        prompt = Prompt.of(payload["messages"]) if "messages" in payload else Prompt.of_text(text)
        return self._completion(payload, prompt, self._answer(payload, prompt, int.from_bytes(key[12:])))

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

    def _answer(self, payload: Mapping[str, Any], prompt: Prompt, turn: int) -> Any:
        """A text, or a value that is sent as JSON."""
        answer = _fixed_answer(self._options.answers, prompt, turn)
        return self._invented(payload, prompt, turn) if answer is None else answer

    def _invented(self, payload: Mapping[str, Any], prompt: Prompt, turn: int) -> Any:
        if payload.get("tools") and (_must_call(payload) or not _has_results(payload.get("messages", ()))):
            tool = payload["tools"][turn % len(payload["tools"])]["function"]
            return [{"name": tool["name"], "arguments": value_for(tool["parameters"], prompt, turn)}]
        if gives_numbers(payload):
            count = payload.get("numbers")
            return embedding(prompt.all_text, count) if is_embedding(payload) else scores(payload, count)
        if "structured_outputs" in payload:
            return _text_of_form(payload["structured_outputs"], prompt, turn)
        response_format = payload.get("response_format") or {}
        kind = response_format.get("type")
        if kind == "json_schema":
            return value_for(response_format["json_schema"]["schema"], prompt, turn)
        if kind == "json_object":
            return free_text.json_object(prompt, turn)
        if self._options.output_tokens:
            return free_text.prose_of(prompt, turn, self._options.output_tokens * _CHARS_PER_TOKEN)
        return free_text.answer(prompt, turn)

    def _completion(self, payload: Mapping[str, Any], prompt: Prompt, answer: Any) -> Completion:
        calls = payload.get("tools") and (_must_call(payload) or _is_calls(answer))
        text = answer if isinstance(answer, str) else orjson.dumps(answer).decode()
        for mark in payload.get("stop") or ():
            text = text.partition(mark)[0]
        finish_reason, longest = TOOL_CALLS if calls else "stop", payload.get("max_tokens")
        if longest is not None and _tokens(text) > longest:
            text, finish_reason = text[: longest * _CHARS_PER_TOKEN], "length"
        usage = Usage(_tokens(prompt.all_text), 0 if gives_numbers(payload) else _tokens(text))
        return Completion(text, finish_reason, usage, self._llm.model)


def _constant_fields(llm: LLM, options: OfflineOptions) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": llm.model}
    for name in ("temperature", "top_p", "seed", "max_tokens"):
        if getattr(llm, name) is not None:
            fields[name] = getattr(llm, name)
    if llm.stop:
        fields["stop"] = list(llm.stop)
    deciding = [options.output_tokens, options.answers]
    if any(option is not None for option in deciding):
        # Other answers are another model: a recorded call must not stand for them.
        fields["stand_in"] = digest(canonical_json(deciding)).hex()
    return fields | llm.extra


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


def _must_call(payload: Mapping[str, Any]) -> bool:
    return payload["tool_choice"] == "required"


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
