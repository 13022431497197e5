"""Magpie against a real vLLM server: the prompt reaches the model as it stands."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.models import open_model
from raypipe.pipeline import Pipeline
from raypipe.steps.tasks import MagpieGenerator
from tests.vllm.marks import MARKS

pytestmark = MARKS

TEMPLATE = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>{% endfor %}<|user|>"
# A random model seldom ends a turn by itself.
STOP = tuple("ab 1")


def model(base_url: str, **fields: Any) -> LLM:
    return LLM("vllm-server/tiny", base_url=base_url, max_tokens=600, temperature=1.0, stop=STOP, **fields)


@pytest.mark.parametrize(("prompt", "tokens"), [("<|user|>", 1), ("<|system|>ab<|end|><|user|>", 5)])
def test_the_model_reads_the_prompt_and_nothing_else(base_url: str, prompt: str, tokens: int) -> None:
    async def asked() -> Completion:
        llm = open_model(model(base_url))
        await llm.open()
        try:
            return await llm.complete(llm.payload(Request(prompt=prompt)))
        finally:
            await llm.close()

    completion = asyncio.run(asked())
    assert completion.usage.input_tokens == tokens
    assert 0 < completion.usage.output_tokens <= 600


def _pipeline(base_url: str, **fields: Any) -> Pipeline:
    with Pipeline("magpie") as pipeline:
        llm = model(base_url, magpie_pre_query_template=TEMPLATE, **fields)
        MagpieGenerator("made", llm=llm, num_rows=12, n_turns=2, include_system_prompt=True)
    return pipeline


def test_the_model_writes_both_sides(base_url: str, tmp_path: Path) -> None:
    result = _pipeline(base_url).run(tmp_path / "out", engine="local", max_failed_rows=12)
    rows = result["made"].to_arrow().to_pylist()
    assert len(rows) + len(result.failures) == 12
    assert len(rows) >= 4
    for row in rows:
        messages = row["conversation"]
        assert [message["role"] for message in messages] == ["system", "user", "assistant", "user", "assistant"]
        assert all(message["content"] for message in messages if message["role"] == "user")
    assert len({row["conversation"][1]["content"] for row in rows}) > 1
    again = _pipeline(base_url).run(tmp_path / "out", engine="local", max_failed_rows=12)
    assert again["made"].to_arrow().to_pylist() == rows
    assert again.manifest["legs"][-1]["steps"]["made"]["calls_sent"] == 0


def test_a_model_with_a_seed_says_something_else_for_each_row(base_url: str, tmp_path: Path) -> None:
    pipeline = _pipeline(base_url, seed=7, concurrency=1)
    one = pipeline.run(tmp_path / "one", engine="local", max_failed_rows=12)["made"].to_arrow().to_pylist()
    other = pipeline.run(tmp_path / "other", engine="local", max_failed_rows=12)["made"].to_arrow().to_pylist()
    assert one == other
    assert len({row["conversation"][1]["content"] for row in one}) > 1
