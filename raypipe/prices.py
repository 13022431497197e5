"""I say what tokens cost, where that is known; an unknown price is never taken for zero."""

from __future__ import annotations

from raypipe.chat import LLM

_FREE = frozenset({"offline"})
_PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "mistral": "mistral",
    "gemini": "google",
    "vertex": "google",
    "groq": "groq",
    "together": "together",
    "deepseek": "deepseek",
    "openrouter": "openrouter",
}
"""Names of providers in genai-prices."""


def cost_usd(llm: LLM, input_tokens: int, output_tokens: int) -> float | None:
    """Price of these tokens in US dollars by genai-prices' table; `None` where it has none."""
    if llm.provider in _FREE:
        return 0.0
    provider = _PROVIDERS.get(llm.provider)
    if provider is None:
        return None
    from genai_prices import Usage, calc_price

    try:
        price = calc_price(
            Usage(input_tokens=input_tokens, output_tokens=output_tokens), model_ref=llm.model, provider_id=provider
        )
    except LookupError:
        return None
    return float(price.total_price)
