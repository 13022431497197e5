"""How much of its throughput does a healthy model keep in a pool with a limited and a dead one?

    python -m benchmarks.pools --engine ray

The same rows are asked of the healthy model alone and of the pool: one member answers 10 requests a minute and refuses
the rest, one has a port at which nobody listens. The share is calls a second of the pool's run over the other's, each
from first arrival to last answer as the servers saw them.
"""

from __future__ import annotations

import argparse
import socket
import tempfile
from pathlib import Path

from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.loopback import Loopback, serve

SLOTS = 64


def _model(name: str, base_url: str) -> LLM:
    return LLM(f"vllm-server/{name}", base_url=base_url, concurrency=SLOTS)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _rate(llms: list[LLM], servers: list[Loopback], rows: int, engine: str) -> tuple[float, dict[str, float]]:
    """Calls a second, and each member's share."""
    with Pipeline("pools") as pipeline:
        seed = LoadDataFromDicts([{"number": number} for number in range(rows)])
        seed >> TextGeneration("ask", llm=llms, template="{{ number }}", output="text")
    with tempfile.TemporaryDirectory() as folder:
        result = pipeline.run(Path(folder) / "out", engine=engine)
    assert result.manifest["leaves"]["ask"]["rows"] == rows
    requests = [one for server in servers for one in server.requests]
    span_s = max(one.ended for one in requests) - min(one.started for one in requests)
    [model] = result.manifest["models"].values()
    return rows / span_s, {name: one["share"] for name, one in model.get("members", {}).items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--latency-s", type=float, default=0.5)
    options = parser.parse_args()
    dead = _model("dead", f"http://127.0.0.1:{_free_port()}/v1")
    with serve(latency_s=options.latency_s) as alone:
        rate, _ = _rate([_model("healthy", alone.base_url)], [alone], options.rows, options.engine)
    print(f"alone: {rate:.1f} calls/s", flush=True)
    with serve(latency_s=options.latency_s) as healthy, serve(requests_per_s=1 / 6) as limited:
        pool = [dead, _model("limited", limited.base_url), _model("healthy", healthy.base_url)]
        pooled, shares = _rate(pool, [healthy, limited], options.rows, options.engine)
    print(f"pool: {pooled:.1f} calls/s, {pooled / rate:.3f} of it, shares {shares}")


if __name__ == "__main__":
    main()
