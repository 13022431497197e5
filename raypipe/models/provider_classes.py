"""Names providers the way programs written for distilabel do: `OpenAILLM(model="gpt-4o-mini")` is an `LLM`.

Knows nothing of how a provider is reached; `presets` does.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from raypipe.contracts.llm import LLM

__all__ = [
    "AnthropicLLM",
    "AzureOpenAILLM",
    "GroqLLM",
    "MistralLLM",
    "OllamaLLM",
    "OpenAILLM",
    "TogetherLLM",
    "VertexAILLM",
    "is_held_key",
    "vLLM",
]


def _named(provider: str, called: str) -> Any:
    def made(
        model: str,
        *,
        base_url: str | None = None,
        api_key: Any = None,
        generation_kwargs: Mapping[str, Any] | None = None,
        max_retries: int | None = None,
        timeout: float | None = None,
        **fields: Any,
    ) -> LLM:
        given: dict[str, Any] = {
            "base_url": base_url,
            "api_key_env": None if api_key is None else _kept_key(api_key),
            "generation_kwargs": generation_kwargs,
            "max_tries": None if max_retries is None else max_retries + 1,
            "timeout_s": timeout,
        }
        return LLM(
            f"{provider}/{model}", **{name: value for name, value in given.items() if value is not None}, **fields
        )

    made.__name__ = made.__qualname__ = called
    made.__doc__ = f"""`LLM("{provider}/<model>")`.

    `max_retries` are tries after the first, `timeout` is in seconds; other fields are those of `LLM`. A key given as
    `api_key` stays in the environment of this process, it is never written down. Raises SpecError.
    """
    return made


_HELD = "RAYPIPE_KEY_"


def is_held_key(name: str | None) -> bool:
    """Whether a key was given to this process alone."""
    return name is not None and name.startswith(_HELD)


def _kept_key(key: Any) -> str:
    """The environment variable that holds a key from now on."""
    text = key.get_secret_value() if hasattr(key, "get_secret_value") else str(key)
    name = f"{_HELD}{blake2b(text.encode(), digest_size=4).hexdigest().upper()}"
    os.environ[name] = text
    return name


OpenAILLM = _named("openai", "OpenAILLM")
MistralLLM = _named("mistral", "MistralLLM")
VertexAILLM = _named("vertex", "VertexAILLM")
AnthropicLLM = _named("anthropic", "AnthropicLLM")
GroqLLM = _named("groq", "GroqLLM")
TogetherLLM = _named("together", "TogetherLLM")
OllamaLLM = _named("ollama", "OllamaLLM")
_OF_THE_ENGINE = (
    "dtype",
    "quantization",
    "revision",
    "seed",
    "skip_tokenizer_init",
    "tokenizer",
    "tokenizer_mode",
    "tokenizer_revision",
    "trust_remote_code",
)


def vLLM(  # noqa: N802
    model: str,
    *,
    chat_template: str | None = None,
    extra_kwargs: Mapping[str, Any] | None = None,
    generation_kwargs: Mapping[str, Any] | None = None,
    **fields: Any,
) -> LLM:
    """`LLM("vllm/<model>")`, which runs here; `dtype`, …, `extra_kwargs` are options of its engine."""
    engine = {name: fields.pop(name) for name in _OF_THE_ENGINE if name in fields}
    engine = {name: value for name, value in engine.items() if value is not None} | dict(extra_kwargs or {})
    options = {"options": {"chat_template": chat_template}} if chat_template is not None else {}
    given = {"generation_kwargs": generation_kwargs} if generation_kwargs else {}
    return LLM(f"vllm/{model}", engine=engine, **options, **given, **fields)


def AzureOpenAILLM(model: str, *, base_url: str | None = None, api_key: Any = None, **fields: Any) -> LLM:  # noqa: N802
    """`LLM("openai/<deployment>")` at an Azure resource: `base_url` or AZURE_OPENAI_ENDPOINT, AZURE_OPENAI_API_KEY."""
    resource = (base_url or os.environ.get("AZURE_OPENAI_ENDPOINT", "")).rstrip("/")
    address = resource if not resource or resource.endswith("/v1") else f"{resource}/openai/v1"
    key = {"api_key": api_key} if api_key is not None else {"api_key_env": "AZURE_OPENAI_API_KEY"}
    return OpenAILLM(model, base_url=address or "https://your-resource.openai.azure.com/openai/v1", **key, **fields)
