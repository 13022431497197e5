"""Estimates the most that a call can take before it is sent, and computes what it took when it was answered."""

from __future__ import annotations

from raypipe.contracts.llm import LLM, Usage
from raypipe.contracts.model import Payload
from raypipe.identity import canonical_json
from raypipe.limits import Caps, Cost
from raypipe.models.prices import cost_usd

ASSUMED_OUTPUT = 8192
"""The most output tokens that are expected of a call without `max_tokens`."""
_LIMITS = ("max_tokens", "max_completion_tokens")


class CallCosts:
    """Costs of the calls of one model. No token is shorter than a byte: a request has no more tokens than bytes."""

    def __init__(self, llm: LLM, caps: Caps) -> None:
        self._llm = llm
        self._counts_usd = caps.usd is not None
        limits = (llm.tokens_per_minute, llm.input_tokens_per_minute, llm.output_tokens_per_minute)
        self._counts_tokens = self._counts_usd or caps.tokens is not None or limits != (None, None, None)
        self._one = Cost(1)

    def most(self, payload: Payload) -> Cost:
        """The most that the call can take."""
        if not self._counts_tokens:
            return self._one
        body = payload.body
        if payload.kind in ("embed", "score"):
            return self._cost(len(canonical_json(body)), 0)
        output = next((body[name] for name in _LIMITS if name in body), self._llm.max_tokens or ASSUMED_OUTPUT)
        return self._cost(len(canonical_json(body)), int(output))

    def taken(self, usage: Usage, reserved: Cost) -> Cost:
        """What the call took; all that was reserved for it where the endpoint counts no tokens."""
        if not usage.is_counted:
            return reserved
        return self._cost(usage.input_tokens, usage.output_tokens)

    def _cost(self, input_tokens: int, output_tokens: int) -> Cost:
        usd = (cost_usd(self._llm, input_tokens, output_tokens) or 0.0) if self._counts_usd else 0.0
        return Cost(1, input_tokens, output_tokens, usd)
