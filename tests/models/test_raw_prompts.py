"""Prompts that go to a model as they stand, without chat template."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raypipe.contracts.llm import LLM, Completion, Request, Usage
from raypipe.errors import CallError, SpecError
from raypipe.models import check_model, open_model, presets
from raypipe.models.offline import OfflineModel
from tests.loopback import Behaviour, serve

LLAMA = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
QWEN = "<|im_start|>user\n"
ABLE = ("together", "ollama", "vllm-server")


def completed(llm: LLM, request: Request) -> Completion:
    async def asked() -> Completion:
        model = open_model(llm)
        await model.open()
        try:
            return await model.complete(model.payload(request))
        finally:
            await model.close()

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("provider", "path"),
    [("openai", "/v1/completions"), ("vllm-server", "/v1/completions"), ("ollama", "/api/generate")],
)
def test_the_prompt_is_sent_as_it_stands(provider: str, path: str) -> None:
    with serve(answer=lambda body: f"{body['prompt']}?") as server:
        llm = LLM(f"{provider}/m", base_url=server.base_url)
        completion = completed(llm, Request(prompt=LLAMA))
        (logged,) = server.requests
    assert completion.text == f"{LLAMA}?"
    assert (completion.finish_reason, completion.model) == ("stop", "loopback")
    assert completion.usage.input_tokens > 0 and completion.usage.output_tokens > 0
    assert (logged.path, logged.body["prompt"]) == (path, LLAMA)
    assert "messages" not in logged.body


def body(llm: LLM, request: Request) -> dict[str, Any]:
    return open_model(llm).payload(request).body


def test_a_body_of_openai_has_the_fields_of_the_model() -> None:
    llm = LLM("openai/m", base_url="http://own/v1", temperature=0.5, top_p=0.9, max_tokens=9, stop=("X",), seed=3)
    sent = {"model": "m", "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 3, "stop": ["X"], "prompt": QWEN}
    assert body(llm, Request(prompt=QWEN)) == sent
    own = body(llm, Request(prompt=QWEN, temperature=0.0, max_tokens=5, stop=("Y",)))
    assert own == sent | {"temperature": 0.0, "max_tokens": 5, "stop": ["X", "Y"]}


@pytest.mark.parametrize(
    ("stops", "sent"), [("AB", list("ABY")), ("ABY", list("ABY")), ("ABCD", list("ABCD")), ("ABCDE", list("ABCDE"))]
)
def test_there_are_four_stops_unless_the_model_has_more(stops: str, sent: list[str]) -> None:
    assert body(LLM("vllm-server/m", stop=tuple(stops)), Request(prompt=QWEN, stop=("Y",)))["stop"] == sent


def test_a_body_without_bound_gets_one() -> None:
    assert body(LLM("together/m"), Request(prompt=QWEN)) == {"model": "m", "max_tokens": 1024, "prompt": QWEN}


def test_vllm_adds_no_beginning_of_its_own() -> None:
    sent = body(LLM("vllm-server/m", extra={"top_k": 5}), Request(prompt=QWEN))
    assert sent == {"model": "m", "add_special_tokens": False, "top_k": 5, "max_tokens": 1024, "prompt": QWEN}
    changed = body(LLM("vllm-server/m", extra={"add_special_tokens": True}), Request(prompt=QWEN))
    assert changed["add_special_tokens"] is True


def test_ollama_is_asked_raw_in_its_own_words() -> None:
    sent = body(LLM("ollama/m", temperature=0.5, max_tokens=7, stop=("X",)), Request(prompt=QWEN, stop=("Y",)))
    options = {"temperature": 0.5, "stop": ["X", "Y"], "num_predict": 7}
    assert sent == {"model": "m", "prompt": QWEN, "raw": True, "stream": False, "options": options}


def test_a_variant_is_another_seed_where_there_is_one() -> None:
    seeded, free = LLM("vllm-server/m", seed=2**31 - 1), LLM("vllm-server/m")
    requests = [Request(prompt=QWEN, variant=number) for number in (None, 0, 1)]
    assert [body(seeded, request)["seed"] for request in requests] == [2**31 - 1, 2**31 - 1, 0]
    assert len({str(body(free, request)) for request in requests}) == 1
    chat = Request(({"role": "user", "content": "hi"},), variant=1)
    assert body(LLM("mistral/m", seed=1), chat)["random_seed"] == 2


def test_a_chat_body_is_what_it_was_and_may_stop_earlier() -> None:
    messages = ({"role": "user", "content": "hi"},)
    llm = LLM("openai/m", max_tokens=9, seed=3, stop=("X",))
    sent = {"model": "m", "max_completion_tokens": 9, "seed": 3, "stop": ["X"], "messages": list(messages)}
    assert body(llm, Request(messages)) == sent
    assert body(llm, Request(messages, stop=("Y",)))["stop"] == ["X", "Y"]


@pytest.mark.parametrize("provider", sorted(set(presets.PRESETS) - set(ABLE)))
def test_an_endpoint_of_conversations_refuses(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p1")
    for preset in presets.PRESETS.values():
        if preset.key_env:
            monkeypatch.setenv(preset.key_env, "k")
    llm = LLM(f"{provider}/m", magpie_pre_query_template="llama3")
    (found,) = check_model(llm)
    assert found.problem.startswith(f"{provider} takes whole conversations only")
    assert "take together/…, ollama/…, vllm-server/… or" in found.problem
    with pytest.raises(SpecError, match="takes whole conversations only"):
        body(llm, Request(prompt=QWEN))
    assert check_model(LLM(f"{provider}/m")) == []


def test_azure_is_no_endpoint_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    azure = LLM("openai/m", base_url="https://r.openai.azure.com/openai/v1", magpie_pre_query_template="llama3")
    assert "takes whole conversations only" in check_model(azure)[0].problem
    monkeypatch.setenv("OPENAI_BASE_URL", "http://own:8000/v1")
    assert check_model(LLM("openai/m", magpie_pre_query_template="llama3")) == []


@pytest.mark.parametrize("provider", ABLE)
def test_an_endpoint_of_prompts_is_sound(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOGETHER_API_KEY", "k")
    assert check_model(LLM(f"{provider}/m", magpie_pre_query_template="llama3", use_magpie_template=True)) == []


def test_a_template_that_is_to_be_used_must_be_there() -> None:
    with pytest.raises(SpecError, match="use_magpie_template needs the template"):
        LLM("vllm-server/m", use_magpie_template=True)


def test_faults_are_classified_and_name_the_address() -> None:
    with serve(script=[500, "truncated"]) as server:
        for kind in ("server", "broken_answer"):
            with pytest.raises(CallError, match="/v1/completions ") as caught:
                completed(LLM("vllm-server/m", base_url=server.base_url), Request(prompt=QWEN))
            assert caught.value.kind == kind


@pytest.mark.parametrize(
    ("answered", "text", "finish_reason", "usage"),
    [
        (b'{"choices": [{"text": null, "finish_reason": "length"}]}', "", "length", Usage()),
        (b'{"response": "hi", "done_reason": "length", "eval_count": 3}', "hi", "length", Usage(0, 3)),
        (b'{"choices": [{"text": "hi"}], "usage": null}', "hi", "stop", Usage()),
    ],
)
def test_what_is_left_out_of_an_answer(answered: bytes, text: str, finish_reason: str, usage: Usage) -> None:
    with serve(Behaviour(body=answered)) as server:
        found = completed(LLM("vllm-server/m", base_url=server.base_url), Request(prompt=QWEN))
    assert found == Completion(text, finish_reason, usage, "m")


# The stand-in.


def invented(prompt: str, variant: int | None = None, **fields: Any) -> str:
    model = OfflineModel(LLM("offline/stand-in", **fields))
    return asyncio.run(model.complete(model.payload(Request(prompt=prompt, variant=variant)))).text


@pytest.mark.parametrize("prompt", [LLAMA, QWEN, "<s>user: ", "<start_of_turn>user\n"])
def test_the_stand_in_speaks_for_the_user(prompt: str) -> None:
    texts = [invented(prompt, number) for number in range(40)]
    assert len(set(texts)) > 30
    assert all(text.endswith(("?", ".")) and "the subject" not in text and "<" not in text for text in texts)
    assert texts == [invented(prompt, number) for number in range(40)]


def test_the_stand_in_goes_on_about_what_was_said() -> None:
    said = "<|im_start|>system\nYou know everything about basalt.<|im_end|>\n<|im_start|>user\n"
    assert all("basalt" in invented(said, number) for number in range(9))


def test_the_stand_in_answers_where_the_user_has_spoken() -> None:
    said = "<|im_start|>user\nName three rivers, one per line.<|im_end|>\n<|im_start|>assistant\n"
    assert len(invented(said).splitlines()) == 3


def test_the_stand_in_keeps_its_options() -> None:
    assert invented(QWEN, 1, options={"answers": ["Why?"]}) == "Why?"
    assert len(invented(QWEN, 1, options={"output_tokens": 5})) == 20
