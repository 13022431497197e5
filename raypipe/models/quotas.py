"""Reads from an answer's headers how much an endpoint allows for the key.

OpenAI, together and others name requests and tokens (https://platform.openai.com/docs/guides/rate-limits), Anthropic
input and output tokens (https://docs.anthropic.com/en/api/rate-limits), Mistral requests and tokens a minute.
"""

from __future__ import annotations

from collections.abc import Mapping

from raypipe.contracts.model import Quota
from raypipe.models.durations import number_of
from raypipe.models.presets import PRESETS

_NAMES: dict[str, tuple[str, ...]] = {
    "requests": (
        "x-ratelimit-limit-requests",
        "anthropic-ratelimit-requests-limit",
        "x-ratelimit-limit-req-minute",
    ),
    "tokens": ("x-ratelimit-limit-tokens", "x-ratelimit-limit-tokens-minute"),
    "input_tokens": ("anthropic-ratelimit-input-tokens-limit",),
    "output_tokens": ("anthropic-ratelimit-output-tokens-limit",),
}


def named_quota(headers: Mapping[str, str], provider: str) -> Quota:
    """The rates that the headers of an answer name."""
    found: dict[str, float | None] = {}
    for kind, names in _NAMES.items():
        numbers = [number for name in names if (number := number_of(headers.get(name))) is not None and number > 0]
        found[kind] = numbers[0] if numbers else None
    if PRESETS[provider].counts_requests_a_day:
        found["requests"] = None
    return Quota(**found)
