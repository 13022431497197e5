"""Says what an adapter of a model promises: payload, complete, what is known of its endpoint and its engine.

Knows nothing of which adapters there are; `models` does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

from raypipe.contracts.llm import Completion, Request


@dataclass(frozen=True, slots=True)
class Quota:
    """Rates that an endpoint allows, each for a minute; `None` where none is known."""

    requests: float | None = None
    tokens: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None

    @property
    def counts_tokens(self) -> bool:
        return (self.tokens, self.input_tokens, self.output_tokens) != (None, None, None)

    def over(self, other: Quota) -> Quota:
        """These rates, and those of `other` where none is known here."""
        return Quota(
            other.requests if self.requests is None else self.requests,
            other.tokens if self.tokens is None else self.tokens,
            other.input_tokens if self.input_tokens is None else self.input_tokens,
            other.output_tokens if self.output_tokens is None else self.output_tokens,
        )


@dataclass(frozen=True, slots=True)
class EndpointLimits:
    """An endpoint with one key, and what is known of its limits."""

    endpoint: str = ""
    """Tells endpoints and keys apart; empty for a model that has no endpoint."""
    refuses: bool = False
    """Whether it answers 429 to more than it takes, where a server of one's own would queue."""
    quota: Quota = Quota()


@dataclass(frozen=True, slots=True)
class EngineFigures:
    """How an engine is doing that runs in a worker."""

    running: int = 0
    """Requests that it works on."""
    waiting: int = 0
    """Requests that wait inside the engine."""
    kv_cache_usage: float = 0.0
    """Share of its key-value cache in use."""
    most_running: int = 0
    """The most requests that it worked on at once, ever."""
    most_kv_cache_usage: float = 0.0
    """The most of its cache that was in use, ever."""
    prefix_queries: int = 0
    """Prompt tokens looked up in the prefix cache, ever."""
    prefix_hits: int = 0
    """Those of them that were found."""
    load_s: float = 0.0
    """How long it took to load, vLLM's own code included, in seconds."""


Kind = Literal["chat", "wrapped", "prompt", "embed", "score"]
"""What a request asks for: the next message of a conversation, or the same as a JSON object that holds its text; how a
text goes on that has no chat template; an embedding; the numbers of a reward model or classifier."""


class Payload(NamedTuple):
    """A request as it is sent, and what kind it is."""

    body: dict[str, Any]
    """A plain JSON mapping; its digest identifies the call."""
    kind: Kind = "chat"


class Model(Protocol):
    """Answers one request. Made and used inside one event loop of one process."""

    def payload(self, request: Request) -> Payload:
        """The request as it is sent. Raises SpecError for what the model cannot be asked."""
        ...

    async def complete(self, payload: Payload, key: bytes = b"") -> Completion:
        """Send it once. `key` identifies the call: what samples by itself makes its seed of it.

        Raises `CallError`, classified, or `ReplicaLostError` when this worker can answer no more; never retries.
        """
        ...

    def figures(self) -> EngineFigures | None:
        """How its engine is doing; `None` for a model that is not in this process."""
        ...

    def endpoint_limits(self) -> EndpointLimits:
        """The endpoint, and what it allows as far as is known by now."""
        ...

    async def open(self) -> None:
        """Get ready. Raises `InfrastructureError` when that is impossible."""
        ...

    async def close(self) -> None: ...
