"""Says what an endpoint can be asked for beyond a conversation.

Knows no HTTP. What a model that runs here can do, only its engine knows.
"""

from __future__ import annotations

from raypipe.contracts.llm import LLM, Request
from raypipe.models.presets import PRESETS, no_plain_prompts, plain_way

_RUN_HERE = 'LLM("vllm/…") runs one here, LLM("vllm-server/…", base_url=…) asks vLLM\'s server'


def refusal(llm: LLM, request: Request) -> str | None:
    """Why the endpoint of `llm` cannot be asked this; `None` where nothing is known against it."""
    preset = PRESETS[llm.provider]
    if request.pool == "embed":
        able = ", ".join(["vllm/…", *(f"{name}/…" for name, one in PRESETS.items() if one.embeds)])
        return None if preset.embeds else f"{llm.provider} has no embeddings; take {able}"
    if request.pool is not None:
        problem = "answers in words and gives no scores as reward models and classifiers do"
        return None if preset.is_vllm else f"{llm.provider} {problem}; {_RUN_HERE}"
    if request.form is not None and "grammar" in request.form and not preset.is_vllm:
        problem = "cannot be held to a grammar; write a regular expression or a JSON Schema, or let vLLM answer"
        return f"{llm.provider} {problem}: {_RUN_HERE}"
    return no_plain_prompts(llm) if request.prompt is not None and plain_way(llm) is None else None
