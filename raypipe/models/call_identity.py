"""Says which part of a model's declaration, and of a request to it, changes what is answered.

That part identifies a call, so that no answer is taken for another's, and none is paid again because of how it was
sent. Knows nothing of rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raypipe.contracts.llm import LLM
from raypipe.identity import canonical_json, digest

_ENGINE = frozenset(
    {
        "code_revision",
        "dtype",
        "generation_config",
        "hf_config_path",
        "hf_overrides",
        "kv_cache_dtype",
        "logits_processors",
        "mm_processor_kwargs",
        "model_impl",
        "override_generation_config",
        "pooler_config",
        "quantization",
        "reasoning_parser",
        "revision",
        "rope_parameters",
        "rope_scaling",
        "rope_theta",
        "tokenizer",
        "tokenizer_mode",
        "tokenizer_revision",
    }
)
"""Options of vLLM's engine that change what the model answers; the others say how fast, and where."""
_TEMPLATE, _TEMPLATE_VALUES = "chat_template", "chat_template_kwargs"
TRANSPORT = frozenset(
    {
        "metadata",
        "priority",
        "prompt_cache_key",
        "prompt_cache_retention",
        "request_id",
        "safety_identifier",
        "service_tier",
        "store",
        "stream",
        "stream_options",
        "user",
    }
)
"""Fields of a request that say how it is carried, billed or kept, and do not change the answer."""


def model_identity(llm: LLM) -> str:
    """The model as its calls know it: the label, and a digest of what else changes its answers, where anything does."""
    changes: dict[str, Any] = {name: value for name, value in llm.engine.items() if name in _ENGINE}
    if llm.options.get(_TEMPLATE):
        changes[_TEMPLATE] = _text_of(str(llm.options[_TEMPLATE]))
    if llm.options.get(_TEMPLATE_VALUES):
        changes[_TEMPLATE_VALUES] = llm.options[_TEMPLATE_VALUES]
    return f"{llm.label} {digest(canonical_json(changes)).hex()}" if changes else llm.label


def _text_of(template: str) -> str:
    """A chat template, which may stand in a file."""
    try:
        return Path(template).read_text(encoding="utf-8") if len(template) < 4096 and "{" not in template else template
    except OSError:
        return template


def fields_left_out(llm: LLM) -> frozenset[str]:
    """Fields of its requests' bodies that do not identify a call."""
    return TRANSPORT.intersection(llm.extra)
