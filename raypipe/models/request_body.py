"""Writes the bodies of requests in OpenAI's words; an adapter overrides what its model wants otherwise.

Knows no HTTP and no engine. The bytes of a body decide the identity of a call: what is written here may not change.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypipe.contracts.llm import LLM, Request
from raypipe.contracts.model import Kind, Payload
from raypipe.models.constrained_text import form_schema
from raypipe.models.pooling import numbers_payload

_SEEDS = 2**31


def varied_seed(llm: LLM, variant: int | None) -> int | None:
    """The seed of a request that differs from equal ones by its variant; `None` where the model's own is right."""
    return None if variant is None or llm.seed is None else (llm.seed + variant) % _SEEDS


class RequestWriter:
    """What an adapter writes its requests with. What is the same in all of them is made once."""

    _wraps_forms = False
    """Whether a text of a form is asked for as a JSON object that holds it."""
    _unites_stops = False
    """Whether a stop that the model and the request both name is sent once."""

    def __init__(
        self, llm: LLM, fields: Mapping[str, Any] | None = None, *, limit: str = "max_tokens", seed: str = "seed"
    ) -> None:
        """`fields` go into every body; `limit` and `seed` are the model's names for `max_tokens` and `seed`."""
        self._llm = llm
        self._limit, self._seed = limit, seed
        self._pool_fields: Mapping[str, Any] = llm.extra
        """What goes into every request for numbers."""
        settings = {
            "temperature": llm.temperature,
            "top_p": llm.top_p,
            limit: llm.max_tokens,
            seed: llm.seed,
            "stop": list(dict.fromkeys(llm.stop) if self._unites_stops else llm.stop) or None,
        }
        named = {name: value for name, value in settings.items() if value is not None}
        self._constant: dict[str, Any] = {"model": llm.model, **(fields or {}), **named, **llm.extra}

    def payload(self, request: Request) -> Payload:
        """The request as it is sent; what it leaves open is taken from the `LLM`.

        Raises SpecError for what the model cannot be asked, such as a prompt where it takes conversations only.
        """
        if request.pool is not None or request.prompt is not None or request.form is not None:
            self._check(request)
            if request.pool is not None:
                return self._numbers(request)
            if request.prompt is not None:
                return self._prompt(request)
        return self._filled({**self._constant, "messages": list(request.messages)}, request, "chat")

    def _filled(self, body: dict[str, Any], request: Request, kind: Kind) -> Payload:
        """The body with what the request says itself."""
        if request.temperature is not None:
            body["temperature"] = request.temperature
        if request.max_tokens is not None:
            body[self._limit] = request.max_tokens
        if request.schema is not None:
            body |= self._schema_fields(request.schema)
        if request.form is not None:
            if self._wraps_forms:
                name, schema = form_schema(request.form)
                body |= self._schema_fields(schema | {"title": name})
                kind = "wrapped"
            else:
                body["structured_outputs"] = dict(request.form)
        if request.stop:
            stops = [*self._llm.stop, *request.stop]
            body["stop"] = list(dict.fromkeys(stops)) if self._unites_stops else stops
        if request.tools:
            body = self._tool_fields(request) | body
        if request.variant is not None and (seed := self._varied_seed(request.variant)) is not None:
            body[self._seed] = seed
        return Payload(body, kind)

    def _check(self, request: Request) -> None:
        """Raises SpecError for a prompt, a form or numbers that the model cannot be asked for."""

    def _numbers(self, request: Request) -> Payload:
        """The request for an embedding, or for the scores of a reward model or classifier."""
        return numbers_payload(self._llm, request, self._pool_fields)

    def _prompt(self, request: Request) -> Payload:
        """The request to go on with a text as it stands, without chat template."""
        return self._filled({**self._constant, "prompt": request.prompt}, request, "prompt")

    def _schema_fields(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """What holds the answer to a JSON Schema; here in the words of vLLM."""
        return {"structured_outputs": {"json": schema}}

    def _tool_fields(self, request: Request) -> dict[str, Any]:
        """What offers the model its tools, and says whether it must call one."""
        tools = [{"type": "function", "function": dict(tool)} for tool in request.tools]
        return {"tools": tools, "tool_choice": "required" if request.must_call else "auto"}

    def _varied_seed(self, variant: int) -> int | None:
        """The seed of a request that differs from equal ones by its variant alone; `None`: it gets none of its own."""
        return varied_seed(self._llm, variant)
