"""I know what an endpoint can be asked for beyond a conversation, and where.

I do not know HTTP. What a model that runs here can do, only its engine knows.
"""

from __future__ import annotations

from raypipe.contracts.llm import LLM, Request
from raypipe.models.presets import PRESETS, base_url, no_plain_prompts, plain_way

_OWN = "vllm-server"
"""The one server that has reward models and grammars."""
_RUN_HERE = 'LLM("vllm/…") runs one here, LLM("vllm-server/…", base_url=…) asks vLLM\'s server'


def refusal(llm: LLM, request: Request) -> str | None:
    """Why the endpoint of `llm` cannot be asked this; `None` where nothing is known against it."""
    if request.pool == "embed":
        return None if PRESETS[llm.provider].embeds else f"{llm.provider} has no embeddings; take {_embedding()}"
    if request.pool is not None:
        problem = "answers in words and gives no scores as reward models and classifiers do"
        return None if llm.provider == _OWN else f"{llm.provider} {problem}; {_RUN_HERE}"
    if request.form is not None and "grammar" in request.form and llm.provider != _OWN:
        problem = "cannot be held to a grammar; write a regular expression or a JSON Schema, or let vLLM answer"
        return f"{llm.provider} {problem}: {_RUN_HERE}"
    return no_plain_prompts(llm) if request.prompt is not None and plain_way(llm) is None else None


def _embedding() -> str:
    return ", ".join(["vllm/…", *(f"{name}/…" for name, preset in PRESETS.items() if preset.embeds)])


def has_forms(llm: LLM) -> bool:
    """Whether the endpoint itself holds a text to a regular expression, a choice or a grammar."""
    return llm.provider == _OWN


def embeddings_url(llm: LLM) -> str:
    """Address that a text is posted to for its embedding."""
    return base_url(llm) + "/embeddings"


def scores_url(llm: LLM) -> str:
    """Address that a conversation is posted to for what a reward model or classifier says; vLLM's own."""
    return base_url(llm).removesuffix("/v1") + "/classify"
