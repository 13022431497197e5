"""Gets a completion from one kind of model, and classifies what went wrong.

Knows nothing of steps, rows, limits and retries. Each adapter is a module of its own, imported when its first
model is opened, so that checking a pipeline loads no HTTP library and no engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Protocol, cast

from raypipe.contracts.distilabel_names import missing
from raypipe.contracts.llm import LLM, Request
from raypipe.contracts.model import Model
from raypipe.errors import SpecError, Violation, nearest
from raypipe.models import capabilities, presets
from raypipe.models.prices import output_limit
from raypipe.models.provider_classes import (
    AnthropicLLM,
    AzureOpenAILLM,
    GroqLLM,
    MistralLLM,
    OllamaLLM,
    OpenAILLM,
    TogetherLLM,
    VertexAILLM,
    is_held_key,
    vLLM,
)
from raypipe.models.vllm.devices import gpus_here
from raypipe.models.vllm.options import (
    SPREAD_ENGINE,
    check_engine,
    engine_gpus,
    gpus_of,
    missing_engine,
    takes_gpus_from_ray,
)

__all__ = [
    "LLM",
    "REGISTRY",
    "SPREAD_ENGINE",
    "Adapter",
    "AnthropicLLM",
    "AzureOpenAILLM",
    "GroqLLM",
    "MistralLLM",
    "OllamaLLM",
    "OpenAILLM",
    "TogetherLLM",
    "VertexAILLM",
    "check_model",
    "check_request",
    "engine_gpus",
    "gpus_here",
    "gpus_of",
    "is_bounded",
    "is_held_key",
    "missing_engine",
    "open_model",
    "takes_gpus_from_ray",
    "vLLM",
]

REGISTRY: dict[str, str] = {
    **dict.fromkeys(presets.PRESETS, "raypipe.models.openai:OpenAIModel"),
    "offline": "raypipe.models.offline:OfflineModel",
    "vllm": "raypipe.models.vllm.adapter:VLLMModel",
}
"""Provider → `module:Class` of its adapter."""


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, __all__)


class Adapter(Protocol):
    """What `REGISTRY` names: a class of models that can also judge a declaration."""

    def __call__(self, llm: LLM) -> Model: ...

    def check(self, llm: LLM) -> list[Violation]:
        """What is wrong with `llm`, as far as it can be known without network."""
        ...


class EngineModel(Model, Protocol):
    """A model that runs here, in an engine that several declarations may share."""

    def asked_as(self, llm: LLM) -> Model:
        """The same engine, asked as `llm` says."""
        ...


def open_model(llm: LLM, beside: Model | None = None) -> Model:
    """The adapter for `llm`; `await model.open()` before the first call.

    `beside`: a model whose engine answers for this one too. Raises SpecError for an unknown provider or unsound
    options.
    """
    adapter = _load_adapter(llm)
    return adapter(llm) if beside is None else cast("EngineModel", beside).asked_as(llm)


def check_model(llm: LLM) -> list[Violation]:
    """Everything that would keep `llm` from answering and can be known without network."""
    if llm.provider in presets.PRESETS:
        return [*_misplaced(llm), *(_served(llm) if llm.serve else ()), *presets.check(llm)]
    try:
        adapter = _load_adapter(llm)
    except SpecError as error:
        return list(error.violations)
    return [*_misplaced(llm), *adapter.check(llm)]


def check_request(llm: LLM, request: Request) -> list[Violation]:
    """Why `llm`, which is sound, cannot be asked this, as far as that can be known without asking."""
    problem = capabilities.refusal(llm, request) if llm.provider in presets.PRESETS else None
    return [] if problem is None else [Violation(f"model {llm.label!r}", problem)]


def is_bounded(llm: LLM, requests: Sequence[Request]) -> bool:
    """Whether each call of `llm` has a longest completion; `requests` are like those of the step that asks."""
    if llm.provider == "offline" or output_limit(llm, llm.extra) is not None:
        return True
    # What a prompt without chat template may come to is always said, but for an engine's own.
    ways = [one.pool or one.max_tokens or (one.prompt is not None and not llm.runs_here) for one in requests]
    return bool(ways) and all(ways)


def _misplaced(llm: LLM) -> list[Violation]:
    """What only an engine of raypipe's own understands, or is understood by vLLM's server alone."""
    of_engine = {"engine": bool(llm.engine), "gpus": llm.gpus is not None}
    given = {"lora": llm.lora is not None} | ({} if llm.serve else of_engine)
    names = [name for name, value in given.items() if value and not llm.runs_here]
    problem = "is for models that run here, vllm/…; leave it out, or give it to the server when it is started"
    found = [f"{name}: {problem}" for name in names]
    started = [name for name, preset in presets.PRESETS.items() if preset.is_vllm]
    if llm.serve and llm.provider not in started:
        found.append(f"serve: only vLLM's server is started; write {started[0]}/NAME, or leave it out")
    return [Violation(f"model {llm.label!r}", problem) for problem in found]


def _served(llm: LLM) -> list[Violation]:
    """What keeps a server from being started."""
    found: list[str] = []
    if llm.base_url:
        found.append("serve: a server that is started has no address before; leave base_url out, or serve")
    if llm.api_key_env:
        found.append("api_key_env: vLLM's server takes its key from VLLM_API_KEY alone; leave it out")
    if llm.engine.get("distributed_executor_backend") == "ray":
        found.append("engine: a server has the GPUs of one node; leave 'distributed_executor_backend' out")
    if "served_model_name" in llm.engine:
        found.append("engine: 'served_model_name' is what the uri names; leave it out")
    return check_engine(llm) + [Violation(f"model {llm.label!r}", problem) for problem in found]


def _load_adapter(llm: LLM) -> Adapter:
    """Raises SpecError for an unknown provider."""
    if llm.provider not in REGISTRY:
        hint = nearest(llm.provider, list(REGISTRY))
        raise SpecError.of(f"model {llm.label!r}", f"unknown provider {llm.provider!r}{hint}")
    module, _, name = REGISTRY[llm.provider].partition(":")
    return getattr(import_module(module), name)
