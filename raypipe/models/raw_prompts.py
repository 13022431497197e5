"""I write a prompt that goes to the model as it stands, and read what comes back.

I do not know HTTP, nor what the prompt is for. A request that bounds its completion nowhere gets a bound here: OpenAI's
API ends such completions after 16 tokens, Ollama's never.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.models.answers import completion, counted, usage_of
from raypipe.models.presets import PlainWay

MOST_TOKENS = 1024
"""Longest completion where neither the model nor the request says one."""

_SEEDS = 2**31
_MOST_STOPS = 4
"""As in OpenAI's API; vLLM refuses more as well."""


def variant_seed(llm: LLM, request: Request) -> int | None:
    """The seed of a request of its own; `None` where the model's is right."""
    if request.variant is None or llm.seed is None:
        return None
    return (llm.seed + request.variant) % _SEEDS


def plain_payload(llm: LLM, request: Request, way: PlainWay, seed: str = "seed") -> dict[str, Any]:
    """The request body; `seed` is the provider's name of that field."""
    own_seed = variant_seed(llm, request)
    fields: dict[str, Any] = {
        "temperature": llm.temperature if request.temperature is None else request.temperature,
        "top_p": llm.top_p,
        "max_tokens": request.max_tokens or llm.max_tokens or MOST_TOKENS,
        seed: llm.seed if own_seed is None else own_seed,
        "stop": _stops(llm, request) or None,
    }
    fields = {name: value for name, value in fields.items() if value is not None} | llm.extra
    if way == "ollama":
        fields["num_predict"] = fields.pop("max_tokens")
        return {"model": llm.model, "prompt": request.prompt, "raw": True, "stream": False, "options": fields}
    # A template says itself how a text begins; vLLM would put the beginning there a second time.
    opening = {"add_special_tokens": False} if llm.provider == "vllm-server" else {}
    return {"model": llm.model, **opening, **fields, "prompt": request.prompt}


def _stops(llm: LLM, request: Request) -> list[str]:
    """Those of the request come after the model's, as far as there is room."""
    return list(dict.fromkeys([*llm.stop, *request.stop]))[: max(_MOST_STOPS, len(llm.stop))]


def plain_completion(answer: Mapping[str, Any], model: str) -> Completion:
    """What the endpoint answered. Raises LookupError, TypeError or AttributeError for what is no completion."""
    name = answer.get("model")
    if "response" in answer:
        counts = (answer.get("prompt_eval_count"), answer.get("eval_count"))
        return completion(_text(answer["response"]), answer.get("done_reason"), usage_of(*counts), name, model)
    choice = answer["choices"][0]
    usage = counted(answer.get("usage"))
    return completion(_text(choice["text"]), choice.get("finish_reason"), usage, name, model)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
