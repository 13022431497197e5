"""How close do chained steps come to the ideal when latencies have a heavy tail?

    python -m benchmarks.saturation --engine ray --replicas 2

Three chained steps with a model of their own each, log-normal latency (mean 0.5 s unless told, sigma 0.8), 256 slots
a step. The ideal is simulated with the very latencies that the server gave: a tandem of three stations of 256 slots
that hand a row on without delay and are never idle while a row waits. The share is its makespan over the measured one,
first arrival to last answer as the server saw them; `busy` is the mean share of slots in use in the middle half.
`bare` is the same chain as plain aiohttp coroutines that keep and log nothing: what this machine allows at all.
"""

from __future__ import annotations

import argparse
import asyncio
import heapq
import tempfile
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import orjson
import uvloop

from benchmarks.server import Server, serve
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration

SLOTS = 256
STEPS = 3
MEAN_S, SIGMA = 0.5, 0.8


def _pipeline(base_url: str, rows: int, replicas: int) -> Pipeline:
    with Pipeline("saturation") as pipeline:
        step = LoadDataFromDicts([{"number": number} for number in range(rows)])
        for index in range(STEPS):
            model = LLM(f"vllm-server/model-{index}", base_url=base_url, concurrency=SLOTS, replicas=replicas)
            template = f"{index}/{{{{ number }}}} answer this"
            following = TextGeneration(f"step{index}", llm=model, template=template, output=f"answer{index}")
            step >> following
            step = following
    return pipeline


async def _bare(base_url: str, rows: int) -> None:
    queues: list[asyncio.Queue[int]] = [asyncio.Queue() for _ in range(STEPS + 1)]
    for row in range(rows):
        queues[0].put_nowait(row)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work(step: int) -> None:
            while True:
                row = await queues[step].get()
                prompt = [{"role": "user", "content": f"{step}/{row} answer this"}]
                body = orjson.dumps({"model": f"model-{step}", "messages": prompt})
                async with session.post(f"{base_url}/chat/completions", data=body) as response:
                    assert orjson.loads(await response.read())["choices"][0]["message"]["content"]
                queues[step + 1].put_nowait(row)

        tasks = [asyncio.create_task(work(step)) for step in range(STEPS) for _ in range(SLOTS)]
        for _ in range(rows):
            await queues[STEPS].get()
        for task in tasks:
            task.cancel()


def _served(log: Path) -> dict[tuple[int, int], tuple[float, float, float]]:
    """(step, row) → arrival, end, latency."""
    served: dict[tuple[int, int], tuple[float, float, float]] = {}
    for line in log.read_text().splitlines():
        arrived, ended, latency, prompt = line.split("\t")
        step, row = prompt.split(" ")[0].split("/")
        served[int(step), int(row)] = (float(arrived), float(ended), float(latency))
    return served


def _ideal_s(served: dict[tuple[int, int], tuple[float, float, float]], rows: int) -> float:
    ready = [(0.0, row) for row in range(rows)]
    for step in range(STEPS):
        free = [0.0] * SLOTS
        heapq.heapify(free)
        after: list[tuple[float, int]] = []
        for at, row in sorted(ready):
            end = max(at, heapq.heappop(free)) + served[step, row][2]
            heapq.heappush(free, end)
            after.append((end, row))
        ready = after
    return max(end for end, _ in ready)


def _busy(served: dict[tuple[int, int], tuple[float, float, float]], step: int) -> float:
    spans = [(arrived, ended) for (at, _), (arrived, ended, _) in served.items() if at == step]
    first, last = min(a for a, _ in spans), max(a for a, _ in spans)
    low, high = first + (last - first) / 4, last - (last - first) / 4
    return sum(max(0.0, min(ended, high) - max(arrived, low)) for arrived, ended in spans) / (high - low) / SLOTS


def _measure(server: Server, log: Path, folder: Path, rows: int, engine: str, replicas: int) -> None:
    server.flush()
    if engine == "bare":
        uvloop.run(_bare(server.base_url, rows))
    else:
        pipeline = _pipeline(server.base_url, rows, replicas)
        result = pipeline.run(folder / f"{engine}-{replicas}", engine=engine)  # type: ignore[arg-type]
        assert len(result[f"step{STEPS - 1}"]) == rows
    server.flush()
    served = _served(log)
    measured = max(ended for _, ended, _ in served.values()) - min(arrived for arrived, _, _ in served.values())
    ideal = _ideal_s(served, rows)
    busy = "  ".join(f"{_busy(served, step):.3f}" for step in range(STEPS))
    figures = f"{ideal:7.2f}  {measured:10.2f}  {ideal / measured:5.3f}  {busy}"
    print(f"{engine:6s}  {replicas:8d}  {rows:6d}  {figures}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["bare", "local", "ray"], nargs="+", default=["bare", "local", "ray"])
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument(
        "--mean-s", type=float, default=MEAN_S, help="Mean latency; longer ones ask less of the machine."
    )
    chosen = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        log = folder / "served.tsv"
        server = stack.enter_context(serve(chosen.mean_s, SIGMA, str(log)))
        if "ray" in chosen.engine:
            from raypipe.execution.ray.session import session

            stack.enter_context(session(None))
        print("engine  replicas    rows  ideal_s  measured_s  share  busy")
        for engine in chosen.engine:
            for replicas in chosen.replicas if engine != "bare" else [1]:
                _measure(server, log, folder, chosen.rows, engine, replicas)


if __name__ == "__main__":
    main()
