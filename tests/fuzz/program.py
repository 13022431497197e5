"""A pipeline with every kind of barrier, and the program that runs it until it ends, is killed or is stopped."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from raypipe.contracts.llm import LLM
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import GlobalStep, LoadDataFromDicts, StepInput, TextGeneration, step
from tests.acceptance.chain import CONCURRENCY, run_as_program

LAST = "last"


@step(outputs=["talk"])
async def talked(row: Values, llm: Any) -> dict[str, Any]:
    """Two calls, the second from the first."""
    first = await llm(f"talk about {row['part']}")
    return {"talk": await llm(f"talk on {first}")}


class Ranked(GlobalStep):
    """Gives every row its rank among all."""

    @property
    def outputs(self) -> list[str]:
        return ["rank"]

    def process(self, inputs: StepInput) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        order = sorted(inputs, key=lambda row: row["topic"])
        yield [row | {"rank": rank} for rank, row in enumerate(order)]


def halves(text: str) -> list[str]:
    """Two parts of an answer."""
    return [text[:16], text[16:]]


def every_barrier(url: str, rows: Sequence[str], **fields: Any) -> Pipeline:
    """A scatter, a conversation in each of its rows, the family gathered, all rows ranked, a last call."""
    llm = LLM("openai/loopback", base_url=url, **{"concurrency": CONCURRENCY, "max_tries": 3} | fields)
    with Pipeline("every-barrier") as pipeline:
        seed = LoadDataFromDicts([{"topic": row} for row in rows], name="seed")
        parts = TextGeneration("parts", llm=llm, template="{{ topic }}", output="part", parse=halves)
        last = TextGeneration(LAST, llm=llm, template="{{ rank }} of {{ topic }}: {{ talk | join }}", output="end")
        seed >> parts.scatter() >> talked("talked", llm=llm).aggregate() >> Ranked("ranked") >> last
    return pipeline


def calls_of(rows: int) -> int:
    """How many calls the pipeline makes."""
    return rows * (1 + 2 * 2 + 1)


if __name__ == "__main__":
    # Before and after the run, signals end this program as they end any other that cares for them.
    for kind in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(kind, lambda *_: os._exit(4))
    run_as_program(every_barrier)
    # An interpreter that ends takes the handlers away first, and dies of a signal that comes then.
    sys.stdout.flush()
    os._exit(0)
