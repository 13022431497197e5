"""What calls cost: each by itself, as the provider's table prices one call."""

from __future__ import annotations

import pytest
from genai_prices import Usage, calc_price

from raypipe.contracts.llm import LLM
from raypipe.models.prices import cost_usd

MODELS = [("gemini", "gemini-2.5-pro"), ("openai", "gpt-4o-mini"), ("anthropic", "claude-sonnet-4-5")]
SIZES = [(0, 0), (1, 0), (1000, 50), (200_000, 7), (200_001, 7), (999_999, 12_345)]


@pytest.mark.parametrize(("provider", "model"), MODELS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("cached", [0, 1, 999])
def test_a_call_costs_what_the_table_says(provider: str, model: str, size: tuple[int, int], cached: int) -> None:
    llm = LLM(f"{provider}/{model}")
    read, written = size
    cached = min(cached, read)
    usage = Usage(input_tokens=read, output_tokens=written, cache_read_tokens=cached)
    expected = float(
        calc_price(usage, model_ref=model, provider_id={"gemini": "google"}.get(provider, provider)).total_price
    )
    assert cost_usd(llm, read, written, cached) == pytest.approx(expected, rel=1e-9, abs=1e-15)  # pyright: ignore[reportUnknownMemberType]


def test_a_price_that_nobody_knows_is_none() -> None:
    assert cost_usd(LLM("openai/of-nobody"), 1, 1) is None
    assert cost_usd(LLM("vllm-server/own"), 1, 1) is None
    assert cost_usd(LLM("openai/of-nobody", price=(1.0, 2.0)), 1_000_000, 1_000_000) == 3.0
