"""Writes a prompt that goes to the model as it stands, and reads what comes back.

Knows no HTTP, nor what the prompt is for. A request that bounds its completion nowhere gets a bound here: OpenAI's
API ends such completions after 16 tokens, Ollama's never.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.contracts.model import Payload
from raypipe.models.answers import completion, counted, usage_of
from raypipe.models.presets import PRESETS, PlainWay
from raypipe.models.request_body import varied_seed

MOST_TOKENS = 1024
"""Longest completion where neither the model nor the request says one."""

_MOST_STOPS = 4
"""As in OpenAI's API; vLLM refuses more as well."""


def plain_payload(llm: LLM, request: Request, way: PlainWay, seed: str = "seed") -> Payload:
    """The request as it is sent; `seed` is the provider's name of that field."""
    varied = varied_seed(llm, request.variant)
    # The stops of the request come after the model's, as far as there is room.
    stops = list(dict.fromkeys([*llm.stop, *request.stop]))[: max(_MOST_STOPS, len(llm.stop))]
    fields: dict[str, Any] = {
        "temperature": llm.temperature if request.temperature is None else request.temperature,
        "top_p": llm.top_p,
        "max_tokens": request.max_tokens or llm.max_tokens or MOST_TOKENS,
        seed: llm.seed if varied is None else varied,
        "stop": stops or None,
    }
    fields = {name: value for name, value in fields.items() if value is not None} | llm.extra
    if way == "ollama":
        fields["num_predict"] = fields.pop("max_tokens")
        body = {"model": llm.model, "prompt": request.prompt, "raw": True, "stream": False, "options": fields}
        return Payload(body, "prompt")
    # The template already begins with the model's first token (BOS); vLLM would put it there a second time.
    opening = {"add_special_tokens": False} if PRESETS[llm.provider].is_vllm else {}
    return Payload({"model": llm.model, **opening, **fields, "prompt": request.prompt}, "prompt")


def plain_completion(answer: Mapping[str, Any], model: str) -> Completion:
    """What the endpoint answered. Raises LookupError, TypeError or AttributeError for what is no completion."""
    if "response" in answer:
        text, reason = answer["response"], answer.get("done_reason")
        usage = usage_of(answer.get("prompt_eval_count"), answer.get("eval_count"))
    else:
        choice = answer["choices"][0]
        text, reason, usage = choice["text"], choice.get("finish_reason"), counted(answer.get("usage"))
    return completion(text if isinstance(text, str) else "", reason, usage, answer.get("model"), model)
