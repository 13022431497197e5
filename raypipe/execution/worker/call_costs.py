"""Estimates the most that a call can take before it is sent, and settles what it took when it has ended.

A call that was sent and of which no sound count came is settled at the most that it can have taken: the endpoint may
have worked on it to the end. Only what says that nothing was generated costs nothing.
"""

from __future__ import annotations

from raypipe.contracts.llm import LLM, Completion, Usage
from raypipe.contracts.model import Payload
from raypipe.errors import CallError
from raypipe.identity import canonical_json
from raypipe.limits import REFUSED, Caps, Cost, Settlement
from raypipe.models.prices import Price, output_limit

ASSUMED_OUTPUT = 8192
"""The most output tokens that are expected of a call without `max_tokens`, which runs with caps do not make."""


class CallCosts:
    """Costs of the calls of one model. No token is shorter than a byte: a request has no more tokens than bytes."""

    def __init__(self, llm: LLM, caps: Caps) -> None:
        self._llm = llm
        limits = (llm.tokens_per_minute, llm.input_tokens_per_minute, llm.output_tokens_per_minute)
        self._counts_tokens = (caps.tokens, caps.usd, *limits) != (None,) * 5
        self._one = Cost(1)
        self._price = Price(llm)

    def most(self, payload: Payload) -> Cost:
        """The most that the call can take; where neither a cap nor a limit counts tokens, that it is a call."""
        return self._most(payload) if self._counts_tokens else self._one

    def _most(self, payload: Payload) -> Cost:
        body = payload.body
        if payload.kind in ("embed", "score"):
            return self._cost(Usage(len(canonical_json(body))))
        output = output_limit(self._llm, body) or ASSUMED_OUTPUT
        return self._cost(Usage(len(canonical_json(body)), output))

    def answered(self, completion: Completion, payload: Payload, reserved: Cost) -> Settlement:
        """What a call took that was answered.

        Where the endpoint counted no tokens, or none where there were some, the most that it can have taken.
        """
        usage = completion.usage
        if usage.is_counted and usage.input_tokens and (usage.output_tokens or not completion.text or _gives(payload)):
            return Settlement(self._cost(usage))
        most = self.unknown(payload, reserved).cost
        read, written = max(usage.input_tokens, most.input_tokens), max(usage.output_tokens, most.output_tokens)
        return Settlement(self._cost(Usage(read, written)), is_estimated=True)

    def failed(self, error: CallError, payload: Payload, reserved: Cost) -> Settlement:
        """What a call took that got no answer: nothing, where nobody worked on it."""
        return REFUSED if error.is_free else self.unknown(payload, reserved)

    def unknown(self, payload: Payload, reserved: Cost) -> Settlement:
        """A call that was sent and given up: it is settled at the most that it can take."""
        most = reserved if self._counts_tokens else self._most(payload)
        return Settlement(most, is_estimated=True, is_answered=False)

    def _cost(self, usage: Usage) -> Cost:
        read, written, cached = usage
        return Cost(1, read, written, self._price.usd(read, written, cached) or 0.0)


def _gives(payload: Payload) -> bool:
    """Whether numbers are asked for, of which no token is written."""
    return payload.kind in ("embed", "score")
