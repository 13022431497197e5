"""Reports to Ray's metrics what a worker with a model does: calls, tokens, and how its engine is doing."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from ray.util.metrics import Gauge

from raypipe.execution.wire import WorkerStatus

_EVERY_S = 2.0
_METERS = {
    "calls_in_flight": "Calls that a worker waits for.",
    "input_tokens": "Tokens that a worker's calls sent.",
    "output_tokens": "Tokens that answers to a worker's calls had.",
    "engine_running": "Requests that an engine works on.",
    "engine_waiting": "Requests that wait inside an engine.",
    "engine_kv_cache_usage": "Share of an engine's key-value cache in use.",
    "engine_prefix_hit_rate": "Share of the prompts' tokens found in an engine's prefix cache.",
}


@dataclass
class Gauges:
    """The metrics `raypipe_…` of one worker, told apart by the tag `worker`."""

    worker: str
    _gauges: dict[str, Gauge] = field(default_factory=dict[str, Gauge], init=False)
    _next: float = field(default=0.0, init=False)

    def show(self, status: WorkerStatus) -> None:
        """Report, at most every other second."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _EVERY_S
        for name, value in _values(status).items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(f"raypipe_{name}", _METERS[name], ("worker",))
            self._gauges[name].set(value, {"worker": self.worker})


def _values(status: WorkerStatus) -> dict[str, float]:
    values: dict[str, float] = {
        "calls_in_flight": status.in_flight,
        "input_tokens": status.input_tokens,
        "output_tokens": status.output_tokens,
    }
    for engine in status.engines[:1]:
        values["engine_running"] = engine.running
        values["engine_waiting"] = engine.waiting
        values["engine_kv_cache_usage"] = engine.kv_cache_usage
        if engine.prefix_queries:
            values["engine_prefix_hit_rate"] = engine.prefix_hits / engine.prefix_queries
    return values
