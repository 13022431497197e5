"""Whatever an endpoint does becomes a completion or a classified error."""

from __future__ import annotations

import asyncio
import pickle
import socket
import time
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.errors import CallError, InfrastructureError, Retry
from raypipe.models import open_model
from tests.loopback import CUT, SILENCE, TRUNCATED, Loopback, serve

CANARY = "sk-canary-0123456789"
REQUEST = Request(({"role": "user", "content": "hello"},))


async def completed(llm: LLM, request: Request = REQUEST) -> Completion:
    model = open_model(llm)
    await model.open()
    try:
        return await model.complete(model.payload(request))
    finally:
        await model.close()


def failure(base_url: str, **fields: Any) -> CallError:
    with pytest.raises(CallError) as caught:
        asyncio.run(completed(LLM("openai/loopback", base_url=base_url, **fields)))
    return caught.value


def failure_of(**behaviour: Any) -> CallError:
    with serve(**behaviour) as server:
        return failure(server.base_url)


@pytest.mark.parametrize(
    ("status", "kind", "retry"),
    [
        (301, "rejected", Retry.NEVER),
        (400, "rejected", Retry.NEVER),
        (401, "auth", Retry.NEVER),
        (402, "quota", Retry.NEVER),
        (403, "auth", Retry.NEVER),
        (404, "not_found", Retry.NEVER),
        (408, "server", Retry.LATER),
        (409, "server", Retry.LATER),
        (413, "rejected", Retry.NEVER),
        (422, "rejected", Retry.NEVER),
        (425, "server", Retry.LATER),
        (429, "rate_limit", Retry.SLOW_DOWN),
        (500, "server", Retry.LATER),
        (502, "server", Retry.LATER),
        (503, "server", Retry.LATER),
        (504, "server", Retry.LATER),
        (529, "server", Retry.LATER),
        (599, "server", Retry.LATER),
    ],
)
def test_status_is_classified(status: int, kind: str, retry: Retry) -> None:
    error = failure_of(script=[status])
    assert (error.kind, error.retry, error.status, error.after_s) == (kind, retry, status, None)
    assert str(error).startswith("model 'openai/loopback' at http://127.0.0.1:")
    assert f"answered {status}: as told: {status}" in str(error)


@pytest.mark.parametrize(
    ("fault", "kind"), [(CUT, "broken_answer"), (TRUNCATED, "broken_answer"), (SILENCE, "timeout")]
)
def test_fault_is_classified(fault: str, kind: str) -> None:
    with serve(script=[fault]) as server:
        started = time.monotonic()
        error = failure(server.base_url, timeout_s=0.3)
        assert time.monotonic() - started < 5
        assert [logged.is_answered for logged in server.requests] == [False]
    assert (error.kind, error.retry, error.status) == (kind, Retry.LATER, 0)


def test_silence_has_a_limit_of_its_own() -> None:
    with serve(script=[SILENCE]) as server:
        error = failure(server.base_url, read_timeout_s=0.2)
    assert (error.kind, error.retry) == ("timeout", Retry.LATER)
    assert "was silent for 0.2 s" in str(error)


def test_refused_connection_is_unreachable() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    error = failure(f"http://127.0.0.1:{port}/v1")
    assert (error.kind, error.retry, error.status) == ("unreachable", Retry.LATER, 0)
    assert "check base_url" in str(error)


def test_tls_against_plain_http_is_unreachable() -> None:
    with serve() as server:
        error = failure(server.base_url.replace("http:", "https:"))
    assert (error.kind, error.retry) == ("unreachable", Retry.LATER)


@pytest.mark.parametrize(
    ("headers", "after_s"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "1.5"}, 1.5),
        ({"Retry-After": "-3"}, 0.0),
        ({"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "nan"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "Retry-After": "9"}, 0.25),
        ({"retry-after-ms": "?", "Retry-After": "9"}, 9.0),
        ({}, None),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
def test_pause_is_read(status: int, headers: dict[str, str], after_s: float | None) -> None:
    assert failure_of(script=[status], headers=headers).after_s == after_s


def test_pause_until_a_date() -> None:
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 30))
    after_s = failure_of(script=[429], headers={"Retry-After": date}).after_s
    assert after_s is not None and 25 < after_s <= 30


@pytest.mark.parametrize("field", ["code", "type"])
def test_spent_quota_is_never_worth_trying_again(field: str) -> None:
    error = failure_of(script=[429], headers={"Retry-After": "1"}, error={field: "insufficient_quota"})
    assert (error.kind, error.retry, error.after_s, error.status) == ("quota", Retry.NEVER, None, 429)
    assert "add credit" in str(error)


def test_errors_survive_pickle() -> None:
    error = failure_of(script=[429], headers={"Retry-After": "2"})
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_long_words_of_the_endpoint_are_cut() -> None:
    assert len(str(failure_of(script=[400], error={"message": "far too long " * 100}))) < 450


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_key_is_never_repeated(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {CANARY}\n")
    echoing = {"message": f"{'x' * 290} the key {CANARY} is wrong"}
    with serve(script=[status], error=echoing) as server:
        llm = LLM("openai/loopback", base_url=server.base_url, api_key_env="MY_KEY")
        error = failure(server.base_url, api_key_env="MY_KEY")
        assert server.requests[0].authorization == f"Bearer {CANARY}"
        shown = [repr(error), str(error), repr(vars(error)), repr(llm), asyncio.run(_shown(llm))]
    assert not [text for text in shown if CANARY[:12] in text]


async def _shown(llm: LLM) -> str:
    model = open_model(llm)
    await model.open()
    await model.close()
    return repr(model) + repr(vars(model)) + repr(model.payload(REQUEST))


def test_missing_key_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MISTRAL_API_KEY", raising=False)
    with pytest.raises(InfrastructureError, match="set MISTRAL_API_KEY, or try"):
        asyncio.run(completed(LLM("mistral/small")))


def test_not_open_is_said() -> None:
    model = open_model(LLM("ollama/llama3.1"))
    with pytest.raises(InfrastructureError, match="is not open"):
        asyncio.run(model.complete(model.payload(REQUEST)))


def test_base_url_is_read_when_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", f"{server.base_url}/")
        assert asyncio.run(completed(LLM("openai/any"))).text
        assert len(server.requests) == 1


def test_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as proxy:
        monkeypatch.setenv("http_proxy", proxy.base_url.removesuffix("/v1"))
        monkeypatch.setenv("no_proxy", "inside.example")
        assert asyncio.run(completed(LLM("ollama/m", base_url="http://outside.example/v1"))).text
        with serve() as server:
            assert asyncio.run(completed(LLM("ollama/m", base_url=server.base_url))).text
        assert len(proxy.requests) == 1


def answer_to(server_body: dict[str, Any]) -> Completion:
    with serve(body=orjson.dumps(server_body)) as server:
        return asyncio.run(completed(LLM("ollama/some", base_url=server.base_url)))


def choice(content: Any, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"message": {"content": content} | fields, "finish_reason": "stop"}]}


def test_bare_answer_is_enough() -> None:
    completion = answer_to({"choices": [{"message": {"content": "yes"}}]})
    assert (completion.text, completion.finish_reason, completion.model) == ("yes", "stop", "some")
    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (0, 0)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": None}, {"prompt_tokens": "many"}, []])
def test_odd_usage_counts_nothing(usage: Any) -> None:
    assert answer_to(choice("yes") | {"usage": usage}).usage.input_tokens == 0


def test_content_in_parts_is_joined() -> None:
    assert answer_to(choice([{"type": "text", "text": "a"}, {"type": "other"}, {"text": "b"}])).text == "ab"


def test_empty_content_is_an_empty_text() -> None:
    assert answer_to(choice(None)).text == ""


@pytest.mark.parametrize(
    ("body", "reason", "text"),
    [
        (choice(None, refusal="I will not"), "refusal", "I will not"),
        (choice("", refusal="I will not"), "refusal", "I will not"),
        (choice([{"type": "refusal", "refusal": "no"}]), "refusal", "no"),
        ({"choices": [{"message": {}, "finish_reason": "content_filter"}]}, "content_filter", ""),
        ({"choices": [{"message": {"content": "half"}, "finish_reason": "SAFETY"}]}, "content_filter", "half"),
        ({"error": {"code": "content_filter", "message": "not this"}}, "content_filter", "not this"),
    ],
)
def test_refusal_is_an_answer(body: dict[str, Any], reason: str, text: str) -> None:
    found = answer_to(body | {"usage": {"prompt_tokens": 3, "completion_tokens": 2}})
    assert (found.finish_reason, found.text) == (reason, text)
    assert found.usage[:2] == ((0, 0) if "error" in body else (3, 2))


@pytest.mark.parametrize("refusal", [None, "", {}, [], 7])
def test_what_is_no_refusal_leaves_the_answer_as_it_is(refusal: Any) -> None:
    found = answer_to(choice("yes", refusal=refusal))
    assert (found.finish_reason, found.text) == ("stop", "yes")


@pytest.mark.parametrize("status", [400, 403, 500])
@pytest.mark.parametrize("error", [{"code": "invalid_request"}, {"innererror": 3}, {"metadata": []}, b"[1]", b"{"])
def test_other_errors_are_no_refusals(status: int, error: Any) -> None:
    assert failure_of(script=[status], error=error).kind != "refused"


@pytest.mark.parametrize("body", [{"choices": []}, {"choices": None}, {}, [], {"choices": [{}]}, 3])
def test_answer_without_choice_is_broken(body: Any) -> None:
    with pytest.raises(CallError) as caught:
        answer_to(body)
    assert (caught.value.kind, caught.value.retry) == ("broken_answer", Retry.LATER)


def test_error_inside_an_answer_is_classified() -> None:
    with pytest.raises(CallError) as caught:
        answer_to({"error": {"code": 429, "message": "upstream is busy"}})
    assert (caught.value.kind, caught.value.retry) == ("rate_limit", Retry.SLOW_DOWN)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'[{"error": {"message": "in a list"}}]', "in a list"),
        (b'{"detail": "from a framework"}', "from a framework"),
        (b'{"error": "as a text"}', "as a text"),
        (b"<html><b>Bad</b> gateway</html>", "Bad gateway"),
    ],
)
def test_words_of_the_endpoint_are_found(body: bytes, said: str) -> None:
    assert str(failure_of(script=[502], error=body)).endswith(f"answered 502: {said}")


def test_completion_limit_has_the_name_of_the_provider() -> None:
    openai = open_model(LLM("openai/m", max_tokens=5)).payload(REQUEST).body
    assert openai["max_completion_tokens"] == 5 and "max_tokens" not in openai
    assert open_model(LLM("groq/m", max_tokens=5)).payload(REQUEST).body["max_tokens"] == 5
    chosen = LLM("openai/m", max_tokens=5, options={"completion_limit": "max_tokens"})
    assert open_model(chosen).payload(REQUEST).body["max_tokens"] == 5


def test_seed_has_the_name_of_the_provider() -> None:
    assert open_model(LLM("openai/m", seed=3)).payload(REQUEST).body["seed"] == 3
    mistral = open_model(LLM("mistral/m", seed=3)).payload(REQUEST).body
    assert mistral["random_seed"] == 3 and "seed" not in mistral


def test_schema_is_named_and_strict() -> None:
    schema = {"type": "object", "title": "My answer!"}
    sent = open_model(LLM("openai/m")).payload(Request(REQUEST.messages, schema=schema)).body["response_format"]
    named = {"name": "My_answer_", "schema": schema, "strict": True}
    assert sent == {"type": "json_schema", "json_schema": named}
    loose = open_model(LLM("openai/m", options={"strict_schema": False}))
    sent = loose.payload(Request(REQUEST.messages, schema={})).body["response_format"]
    assert sent["json_schema"]["strict"] is False


def test_large_bodies_are_sent() -> None:
    with serve() as server:
        request = Request(({"role": "user", "content": "x" * 2_000_000},))
        assert asyncio.run(completed(LLM("ollama/m", base_url=server.base_url), request)).text


def test_cancelling_a_call_closes_its_connection() -> None:
    async def cancelled(server: Loopback) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(completed(LLM("ollama/m", base_url=server.base_url)), 0.2)
        for _ in range(100):
            if server.in_flight == 0:
                return
            await asyncio.sleep(0.02)

    with serve(script=[SILENCE]) as server:
        asyncio.run(cancelled(server))
        assert (server.in_flight, server.max_in_flight) == (0, 1)
