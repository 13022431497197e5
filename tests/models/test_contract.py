"""Every adapter keeps the contract of `Model`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import jsonschema
import orjson
import pytest

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.contracts.model import Model
from raypipe.identity import canonical_json
from raypipe.models import check_model, open_model
from tests.loopback import serve

SCHEMA = {
    "type": "object",
    "properties": {"question": {"type": "string"}, "score": {"type": "integer", "minimum": 1, "maximum": 5}},
    "required": ["question", "score"],
}
ASKED = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why is the sky blue?"})


@contextmanager
def offline(**fields: Any) -> Iterator[LLM]:
    yield LLM("offline/stand-in", **fields)


@contextmanager
def openai(**fields: Any) -> Iterator[LLM]:
    with serve() as server:
        yield LLM("openai/loopback", base_url=server.base_url, **fields)


@pytest.fixture(params=[offline, openai], ids=lambda kind: kind.__name__)
def declared(request: pytest.FixtureRequest) -> Any:
    return request.param


def with_model(llm: LLM, use: Callable[[Model], Awaitable[Any]]) -> Any:
    async def used() -> Any:
        model = open_model(llm)
        await model.open()
        try:
            return await use(model)
        finally:
            await model.close()

    return asyncio.run(used())


def asked(llm: LLM, request: Request) -> Completion:
    return with_model(llm, lambda model: model.complete(model.payload(request)))


def test_answers_with_text_usage_and_name(declared: Any) -> None:
    with declared() as llm:
        assert check_model(llm) == []
        completion = asked(llm, Request(ASKED))
    assert completion.text.strip()
    assert completion.finish_reason == "stop"
    assert completion.usage.input_tokens > 0
    assert completion.usage.output_tokens > 0
    assert completion.model == llm.model


def test_same_request_same_answer(declared: Any) -> None:
    with declared() as llm:
        assert asked(llm, Request(ASKED)) == asked(llm, Request(ASKED))


def test_schema_is_satisfied(declared: Any) -> None:
    with declared() as llm:
        value = orjson.loads(asked(llm, Request(ASKED, schema=SCHEMA)).text)
    jsonschema.validate(value, SCHEMA)


def test_payload_is_plain_and_needs_no_open(declared: Any) -> None:
    with declared(temperature=0.5, max_tokens=99, seed=7, stop=("END",), extra={"user": "me"}) as llm:
        payload = open_model(llm).payload(Request(ASKED, schema=SCHEMA)).body
    assert payload == orjson.loads(canonical_json(payload))
    assert payload["messages"] == list(ASKED)
    assert payload["model"] == llm.model
    assert (payload["temperature"], payload["seed"], payload["stop"], payload["user"]) == (0.5, 7, ["END"], "me")
    assert payload["response_format"]["json_schema"]["schema"] == SCHEMA


def test_request_overrides_the_declaration(declared: Any) -> None:
    with declared(temperature=0.5, max_tokens=99) as llm:
        model = open_model(llm)
        plain, own = (
            model.payload(one).body for one in (Request(ASKED), Request(ASKED, temperature=0.0, max_tokens=5))
        )
    assert {99, 0.5} <= set(_scalars(plain)) and 5 not in _scalars(plain)
    assert {5, 0.0} <= set(_scalars(own)) and 99 not in _scalars(own)


def _scalars(payload: dict[str, Any]) -> list[Any]:
    return [value for value in payload.values() if isinstance(value, int | float)]


def test_timing_is_outside_the_payload(declared: Any) -> None:
    with declared() as llm:
        fields = llm.model_dump(exclude={"uri"})
    hurried = LLM(llm.uri, **(fields | {"timeout_s": 1.0, "concurrency": 2, "max_tries": 1}))
    assert open_model(llm).payload(Request(ASKED)) == open_model(hurried).payload(Request(ASKED))


def test_many_at_once(declared: Any) -> None:
    async def all_at_once(model: Model) -> list[Completion]:
        requests = [Request(({"role": "user", "content": f"Explain number {n}."},)) for n in range(50)]
        return await asyncio.gather(*(model.complete(model.payload(request)) for request in requests))

    with declared() as llm:
        completions = with_model(llm, all_at_once)
    assert len({completion.text for completion in completions}) > 10


def test_closes_twice(declared: Any) -> None:
    with declared() as llm:
        with_model(llm, lambda model: model.close())
