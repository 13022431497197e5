"""Embedding and reward models: what they are sent, and numbers as the text of a completion."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.errors import CallError, SpecError
from raypipe.execution.worker.call_costs import CallCosts
from raypipe.limits import Caps
from raypipe.models import check_request, open_model
from tests.loopback import serve
from tests.models.test_openai import completed

TEXT = Request(prompt="Why is the sky blue?", pool="embed")
TALK = ({"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."})
REWARD, SHARE = Request(TALK, pool="score"), Request(TALK, pool="classify")


def asked(llm: LLM, request: Request) -> Completion:
    return asyncio.run(completed(llm, request))


def numbers(completion: Completion) -> list[float]:
    found = orjson.loads(completion.text)
    assert all(type(one) is float for one in found)
    return found


def closeness(one: str, other: str) -> float:
    vectors = [numbers(asked(LLM("offline/x"), Request(prompt=text, pool="embed"))) for text in (one, other)]
    return sum(first * second for first, second in zip(*vectors, strict=True))


def test_the_stand_in_embeds_alike_what_shares_words() -> None:
    made = asked(LLM("offline/x"), TEXT)
    assert (made.finish_reason, made.usage.output_tokens) == ("stop", 0)
    assert made.usage.input_tokens > 0
    assert math.isclose(math.hypot(*numbers(made)), 1.0, abs_tol=1e-4)
    assert closeness("the sky is blue", "the sky is grey") > 0.4 > closeness("the sky is blue", "cows eat grass")
    assert len(numbers(asked(LLM("offline/x"), TEXT._replace(numbers=7)))) == 7
    assert len(numbers(asked(LLM("offline/x"), Request(prompt="", pool="embed")))) > 7


def test_the_stand_in_scores_a_conversation() -> None:
    (raw,), shares = numbers(asked(LLM("offline/x"), REWARD)), asked(LLM("offline/x"), SHARE._replace(numbers=3))
    assert math.isclose(sum(numbers(shares)), 1.0, abs_tol=1e-4)
    assert math.isclose(numbers(asked(LLM("offline/x"), SHARE))[0], 1 / (1 + math.exp(-raw / 2)), abs_tol=1e-4)
    assert numbers(asked(LLM("offline/x", options={"answers": [[0.5, 2.5]]}), REWARD)) == [0.5, 2.5]


def test_an_endpoint_is_asked_for_an_embedding_at_its_own_address() -> None:
    with serve() as server:
        llm = LLM("openai/embedder", base_url=server.base_url, temperature=0.5, max_tokens=9, extra={"user": "me"})
        made = asked(llm, TEXT._replace(numbers=5))
    [sent] = server.requests
    assert sent.path == "/v1/embeddings"
    body = {"model": "embedder", "input": TEXT.prompt, "encoding_format": "float", "dimensions": 5, "user": "me"}
    assert sent.body == body
    assert (len(numbers(made)), made.usage.output_tokens, made.model) == (5, 0, "loopback")
    assert made.usage.input_tokens > 0


@pytest.mark.parametrize(("request_", "is_active"), [(REWARD, False), (SHARE, True)])
def test_a_server_of_vllms_scores_a_conversation(request_: Request, is_active: bool) -> None:
    with serve() as server:
        made = asked(LLM("vllm-server/reward", base_url=server.base_url), request_)
    [sent] = server.requests
    assert sent.path == "/classify"
    talk = {"messages": list(TALK), "add_generation_prompt": False}
    assert sent.body == {"model": "reward", **talk, "use_activation": is_active}
    assert len(numbers(made)) == 1


def test_a_server_of_vllms_classifies_a_text() -> None:
    with serve() as server:
        asked(LLM("vllm-server/sorter", base_url=server.base_url), Request(prompt="hello", pool="classify"))
    assert server.requests[0].body == {"model": "sorter", "input": "hello", "use_activation": True}


@pytest.mark.parametrize("body", [b"{}", b'{"data": []}', b'{"data": [{"embedding": null}]}', b'{"data": [3]}'])
def test_an_answer_without_numbers_is_a_broken_answer(body: bytes) -> None:
    with serve(body=body) as server, pytest.raises(CallError, match="/v1/embeddings answered with") as caught:
        asked(LLM("openai/x", base_url=server.base_url), TEXT)
    assert caught.value.kind == "broken_answer"


def test_a_faulty_endpoint_is_told_by_the_address_that_was_asked() -> None:
    with serve(script=[404]) as server, pytest.raises(CallError, match="/classify answered 404") as caught:
        asked(LLM("vllm-server/x", base_url=server.base_url), REWARD)
    assert caught.value.kind == "not_found"


@pytest.mark.parametrize(
    ("uri", "request_", "said"),
    [
        ("anthropic/claude", TEXT, "anthropic has no embeddings; take vllm/…, openai/…"),
        ("openai/gpt-4o", REWARD, "openai answers in words and gives no scores .*vllm-server/"),
        ("groq/llama", SHARE, "gives no scores"),
        ("openai/gpt-4o", Request(TALK, form={"grammar": 'root ::= "a"'}), "cannot be held to a grammar"),
    ],
)
def test_what_an_endpoint_cannot_be_asked_is_refused(uri: str, request_: Request, said: str) -> None:
    [problem] = check_request(LLM(uri), request_)
    with pytest.raises(SpecError, match=f"model '{uri}': .*{said}") as caught:
        open_model(LLM(uri)).payload(request_)
    assert caught.value.violations == (problem,)


@pytest.mark.parametrize("uri", ["vllm/x", "vllm-server/x", "offline/x"])
@pytest.mark.parametrize("request_", [TEXT, REWARD, SHARE, Request(TALK, form={"grammar": "x"})])
def test_what_may_be_asked_is_not_refused(uri: str, request_: Request) -> None:
    assert check_request(LLM(uri), request_) == []


@pytest.mark.parametrize("uri", ["vllm/x", "vllm-server/x", "offline/x"])
@pytest.mark.parametrize("request_", [TEXT, REWARD, SHARE])
def test_numbers_are_no_tokens_of_an_answer(uri: str, request_: Request) -> None:
    llm = LLM(uri, max_tokens=500, tokens_per_minute=1e6)
    need: Any = CallCosts(llm, Caps()).most(open_model(llm).payload(request_))
    assert need.output_tokens == 0 < need.input_tokens
