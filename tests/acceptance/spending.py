"""Pipelines of many shapes for `raypipe run tests/acceptance/spending.py:pipeline`; the environment says which."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from raypipe.contracts.llm import LLM, Caller
from raypipe.contracts.model_pool import make_pool
from raypipe.contracts.step import Aggregate
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import EmbeddingGeneration, LoadDataFromDicts, TextGeneration, step

ROWS = int(os.environ.get("SPENDING_ROWS", "60"))
MOST_TOKENS = 100
CONCURRENCY = 6
SHAPES = ("chain", "stages", "pool", "hedged", "calls", "hurried", "embeddings", "tools")


def model(**fields: Any) -> LLM:
    fields = {"max_tokens": MOST_TOKENS, "price": (1.0, 2.0), "concurrency": CONCURRENCY, "max_tries": 2} | fields
    return LLM("openai/loopback", base_url=os.environ["SPENDING_URL"], timeout_s=1.0, **fields)


@step(inputs=["text"], outputs=["said"])
async def several(row: Values, llm: Caller) -> dict[str, Any]:
    said = [await llm(f"{row['text']} {number}") for number in range(2)]
    return {"said": said[-1]}


@step(inputs=["text"], outputs=["said"])
async def hurried(row: Values, llm: Caller) -> dict[str, Any]:
    """Gives calls up, as a workflow does whose time is over."""
    try:
        async with asyncio.timeout(0.04):
            return {"said": await llm(row["text"])}
    except TimeoutError:
        return {"said": None}


def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@step(inputs=["text"], outputs=["said"])
async def tools(row: Values, llm: Caller) -> dict[str, Any]:
    from raypipe.errors import RowError

    try:
        return {"said": str(await llm(row["text"], tools=[add], execute=False))}
    except RowError:
        return {"said": await llm(row["text"])}


def make(shape: str) -> Pipeline:
    with Pipeline("spending") as made:
        seed = LoadDataFromDicts([{"text": f"topic {number}"} for number in range(ROWS)], name="seed")
        if shape in ("several", "calls"):
            seed >> several("ask", llm=model())
        elif shape == "hurried":
            seed >> hurried("ask", llm=model())
        elif shape == "tools":
            seed >> tools("ask", llm=model())
        elif shape == "embeddings":
            seed >> EmbeddingGeneration("ask", llm=model(max_tokens=None))
        else:
            llm: Any = make_pool([model(), model(seed=1)]) if shape == "pool" else model()
            llm = model(hedge_after_s=0.03) if shape == "hedged" else llm
            first = TextGeneration("first", llm=llm, template="{{ text }}", output="first")
            last = TextGeneration("last", llm=llm, template="{{ first }}", output="last")
            if shape == "stages":
                seed >> first >> Aggregate("all", by="all") >> last
            else:
                seed >> first >> last
    return made


if "SPENDING_URL" in os.environ:
    pipeline = make(os.environ.get("SPENDING_SHAPE", "chain"))
