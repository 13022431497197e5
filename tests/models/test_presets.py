"""Address, key and everything that can be known without asking the provider."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import SpecError
from raypipe.models import REGISTRY, check_model, open_model, presets

ENDPOINTS = {
    "openai": ("https://api.openai.com/v1", "OPENAI_API_KEY"),
    "mistral": ("https://api.mistral.ai/v1", "MISTRAL_API_KEY"),
    "gemini": ("https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY"),
    "vertex": (
        "https://europe-west4-aiplatform.googleapis.com/v1/projects/p1/locations/europe-west4/endpoints/openapi",
        "VERTEX_ACCESS_TOKEN",
    ),
    "anthropic": ("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY"),
    "groq": ("https://api.groq.com/openai/v1", "GROQ_API_KEY"),
    "together": ("https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    "deepseek": ("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY"),
    "openrouter": ("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY"),
    "ollama": ("http://localhost:11434/v1", None),
    "vllm-server": ("http://localhost:8000/v1", "VLLM_API_KEY"),
}
FREE = ("ollama", "vllm-server")


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.endswith(("_API_KEY", "_ACCESS_TOKEN", "_BASE_URL")) or name.startswith(("GOOGLE_CLOUD_", "OLLAMA_")):
            monkeypatch.delenv(name)


def problems(llm: LLM) -> list[str]:
    return [violation.problem for violation in check_model(llm)]


def test_every_provider_is_known() -> None:
    assert set(ENDPOINTS) == set(presets.PRESETS)
    assert set(REGISTRY) == {*ENDPOINTS, "offline", "vllm"}


@pytest.mark.parametrize("provider", ENDPOINTS)
def test_address_and_key_variable(provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p1")
    monkeypatch.setenv("GOOGLE_CLOUD_LOCATION", "europe-west4")
    llm = LLM(f"{provider}/some-model")
    assert (presets.base_url(llm), presets.key_env(llm)) == ENDPOINTS[provider]
    if provider in FREE:
        assert problems(llm) == []
        return
    key_env = ENDPOINTS[provider][1]
    assert key_env is not None
    assert problems(llm) == [
        f"the environment variable {key_env} is not set; "
        f"set {key_env}, or try the pipeline without a key with --model NAME=offline/stand-in"
    ]
    monkeypatch.setenv(key_env, "k")
    assert problems(llm) == []
    assert presets.read_key(llm) == "k"


def test_openai_base_url_replaces_only_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://gateway:9/v1/")
    assert presets.urls_of(LLM("openai/m"))["chat"] == "http://gateway:9/v1/chat/completions"
    assert presets.base_url(LLM("groq/m")) == ENDPOINTS["groq"][0]
    assert presets.base_url(LLM("openai/m", base_url="http://own/v1")) == "http://own/v1"
    assert problems(LLM("openai/m")) == []
    monkeypatch.setenv("OPENAI_BASE_URL", "https://api.openai.com/v1")
    assert "OPENAI_API_KEY is not set" in problems(LLM("openai/m"))[0]


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("gpu-box", "http://gpu-box:11434/v1"),
        ("10.0.0.1:8080", "http://10.0.0.1:8080/v1"),
        ("[::1]", "http://[::1]:11434/v1"),
        ("[::1]:8080", "http://[::1]:8080/v1"),
        ("https://ollama.example.org/", "https://ollama.example.org/v1"),
    ],
)
def test_ollama_host(host: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert presets.base_url(LLM("ollama/m")) == address
    assert problems(LLM("ollama/m")) == []


def test_vertex_needs_a_project(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VERTEX_ACCESS_TOKEN", "t")
    assert "set GOOGLE_CLOUD_PROJECT" in problems(LLM("vertex/google/gemini-2.5-flash"))[0]
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "p1")
    assert problems(LLM("vertex/google/gemini-2.5-flash")) == []
    assert presets.base_url(LLM("vertex/m")).startswith(
        "https://aiplatform.googleapis.com/v1/projects/p1/locations/global"
    )


def test_declared_key_variable_is_needed_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM("openai/m", base_url="http://own:1/v1", api_key_env="MY_API_KEY")
    assert "MY_API_KEY is not set" in problems(llm)[0]
    monkeypatch.setenv("MY_API_KEY", "k")
    assert problems(llm) == []


@pytest.mark.parametrize("key", ["two words", "schlüssel", "line\nbreak"])
def test_key_must_fit_a_header(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GROQ_API_KEY", key)
    found = problems(LLM("groq/m"))
    assert len(found) == 1 and "GROQ_API_KEY has characters" in found[0] and key not in found[0]


@pytest.mark.parametrize(
    ("address", "hint"),
    [
        ("localhost:8000/v1", "write it like http://localhost:8000/v1"),
        ("ftp://host/v1", "write it like"),
        ("http://", "write it like"),
        ("http://host:port/v1", "write it like"),
        ("http://ho st/v1", "write it like"),
        ("http://host/v1/chat/completions", "leave out /chat/completions"),
        ("http://user:canary@host/v1", "name it in api_key_env"),
        ("http://host/v1?key=canary", "name it in api_key_env"),
    ],
)
def test_base_url_is_judged(address: str, hint: str) -> None:
    found = problems(LLM("ollama/m", base_url=address))
    assert len(found) == 1
    assert hint in found[0]
    assert "canary" not in found[0]


def test_unknown_provider_is_answered_with_the_nearest() -> None:
    (found,) = check_model(LLM("opnai/m"))
    assert str(found) == "model 'opnai/m': unknown provider 'opnai' (did you mean 'openai'?)"
    with pytest.raises(SpecError, match="unknown provider"):
        open_model(LLM("opnai/m"))


@pytest.mark.parametrize(
    ("uri", "option", "meant"), [("ollama/m", "strict_shema", "strict_schema"), ("offline/m", "latency", "latency_s")]
)
def test_unknown_option_is_answered_with_the_nearest(uri: str, option: str, meant: str) -> None:
    (found,) = check_model(LLM(uri, options={option: 1}))
    assert found.where == f"model {uri!r} options"
    assert found.problem == f"unknown option {option!r} (did you mean {meant!r}?)"
    with pytest.raises(SpecError):
        open_model(LLM(uri, options={option: 1}))


def test_ill_typed_option_names_the_field() -> None:
    (found,) = check_model(LLM("offline/m", options={"fail_share": 2}))
    assert "'fail_share'" in found.problem and "got 2" in found.problem


@pytest.mark.parametrize("name", presets.OWN_FIELDS)
def test_extra_leaves_the_request_alone(name: str) -> None:
    assert repr(name) in problems(LLM("ollama/m", extra={name: 1}))[0]


def test_all_problems_are_told_at_once() -> None:
    llm = LLM("openai/m", base_url="nowhere", api_key_env="NO_API_KEY", extra={"n": 2}, options={"x": 1})
    assert len(problems(llm)) == 4


def test_checking_loads_no_http_library() -> None:
    code = (
        "import sys; from raypipe.models import LLM, check_model; check_model(LLM('openai/m')); "
        "sys.exit('aiohttp' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
