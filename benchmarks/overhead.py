"""What does a call cost beside the call itself? Processor time per call, beside a bare aiohttp loop in the same run.

    python -m benchmarks.overhead --engine local --rows 20000

Flat prompts, zero latency, one step, 256 calls in flight. The processor time of the whole process tree (the server
left out) is taken between a small and a large run of one session, so that start-up does not count.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from contextlib import ExitStack
from pathlib import Path

import aiohttp
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.server import serve
from benchmarks.tree import Tree
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromFiles
from raypipe.steps.tasks import TextGeneration

IN_FLIGHT = 256
FEW = 1000
ROWS_A_GROUP = 10_000


async def _bare(base_url: str, rows: int) -> None:
    numbers = iter(range(rows))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:

        async def work() -> None:
            for number in numbers:
                body = {"model": "bench", "messages": [{"role": "user", "content": _prompt(number)}]}
                async with session.post(f"{base_url}/chat/completions", json=body) as response:
                    orjson.loads(await response.read())["choices"][0]["message"]["content"]

        await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))


def _prompt(number: int) -> str:
    return f"Explain subject {number} to a beginner, with one example. " + "Take care to be exact. " * 20


def _run(folder: Path, base_url: str, rows: int, engine: str) -> Tree:
    path = folder / f"{rows}.parquet"
    with pq.ParquetWriter(path, pa.schema({"instruction": pa.string()})) as file:
        for start in range(0, rows, ROWS_A_GROUP):
            prompts = [_prompt(number) for number in range(start, min(rows, start + ROWS_A_GROUP))]
            file.write_table(pa.table({"instruction": prompts}))
    with Pipeline("overhead") as pipeline:
        model = LLM("vllm-server/bench", base_url=base_url, concurrency=IN_FLIGHT)
        LoadDataFromFiles(path=str(path)) >> TextGeneration(llm=model)
    with Tree() as tree:
        result = pipeline.run(folder / f"out-{rows}", engine=engine)  # type: ignore[arg-type]
    assert len(result["text_generation_0"]) == rows
    return tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--rows", type=int, nargs="+", default=[20000])
    chosen = parser.parse_args()
    with ExitStack() as stack:
        server = stack.enter_context(serve())
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if chosen.engine == "ray":
            from raypipe.execution.ray.session import session

            stack.enter_context(session(None))
        asyncio.run(_bare(server.base_url, FEW))
        _run(folder, server.base_url, FEW - 1, chosen.engine)
        few = _run(folder, server.base_url, FEW, chosen.engine)
        print("engine  rows     bare µs/call  raypipe µs/call  ratio  rows/s  peak MiB")
        for rows in chosen.rows:
            with Tree() as bare:
                asyncio.run(_bare(server.base_url, min(rows, 20000)))
            many = _run(folder, server.base_url, rows, chosen.engine)
            with Tree() as again:
                asyncio.run(_bare(server.base_url, min(rows, 20000)))
            bare_us = (bare.cpu_s + again.cpu_s) / 2 / min(rows, 20000) * 1e6
            own_us = (many.cpu_s - few.cpu_s) / (rows - FEW) * 1e6
            rate = (rows - FEW) / (many.wall_s - few.wall_s)
            figures = f"{bare_us:12.0f}  {own_us:15.0f}  {own_us / bare_us:5.2f}  {rate:6.0f}"
            print(f"{chosen.engine:6s}  {rows:7d}  {figures}  {many.peak_bytes >> 20:8d}", flush=True)


if __name__ == "__main__":
    main()
