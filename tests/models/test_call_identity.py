"""A call knows what changes its answer, and nothing of how it is sent."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.models.call_identity import fields_left_out, model_identity

PLAIN = model_identity(LLM("vllm/m"))


@pytest.mark.parametrize(
    "given",
    [
        {"engine": {"revision": "abc"}},
        {"engine": {"quantization": "fp8"}},
        {"engine": {"tokenizer": "other"}},
        {"engine": {"generation_config": "vllm"}},
        {"engine": {"override_generation_config": {"top_k": 3}}},
        {"engine": {"hf_overrides": {"rope_theta": 1e6}}},
        {"options": {"chat_template": "{{ messages }}"}},
        {"options": {"chat_template_kwargs": {"enable_thinking": False}}},
    ],
)
def test_what_changes_an_answer_counts(given: dict[str, Any]) -> None:
    made = model_identity(LLM("vllm/m", **given))
    assert made != PLAIN and made.startswith("vllm/m ")
    assert made == model_identity(LLM("vllm/m", **given))


@pytest.mark.parametrize(
    "given",
    [
        {
            "engine": {
                "gpu_memory_utilization": 0.5,
                "tensor_parallel_size": 2,
                "max_num_seqs": 7,
                "enforce_eager": True,
            }
        },
        {"options": {"load_timeout_s": 5.0, "seeds": True, "chat_template_kwargs": {}}},
        {"concurrency": 7, "replicas": 3, "max_tries": 2, "weight": 2.0},
    ],
)
def test_what_does_not_change_an_answer_does_not_count(given: dict[str, Any]) -> None:
    assert model_identity(LLM("vllm/m", **given)) == PLAIN == "vllm/m"


def test_a_template_counts_by_its_text(tmp_path: Path) -> None:
    text = "{% for one in messages %}{{ one.content }}{% endfor %}"
    for name in ("a.jinja", "b.jinja"):
        (tmp_path / name).write_text(text)
    made = {
        model_identity(LLM("vllm/m", options={"chat_template": template}))
        for template in (text, str(tmp_path / "a.jinja"), str(tmp_path / "b.jinja"))
    }
    assert len(made) == 1
    (tmp_path / "a.jinja").write_text(text + " ")
    assert model_identity(LLM("vllm/m", options={"chat_template": str(tmp_path / "a.jinja")})) not in made


def test_fields_of_transport_are_left_out() -> None:
    llm = LLM("openai/m", extra={"service_tier": "flex", "metadata": {"a": "b"}, "top_k": 5})
    assert fields_left_out(llm) == {"service_tier", "metadata"}
    assert fields_left_out(LLM("openai/m")) == frozenset()
