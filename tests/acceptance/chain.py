"""The pipelines that acceptance tests run, and a program that runs one until it ends or is killed.

Every request of a run is another one, and every answer says which it answers, so that a test can hold a
call log against what a server saw.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raypipe.calls.segments import read_segment
from raypipe.contracts.llm import LLM
from raypipe.errors import StoppedError
from raypipe.identity import canonical_json, digest
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.loopback import Loopback

CONCURRENCY = 16
LAST_PROMPT = "third: {{ second }}"


def answer(body: dict[str, Any]) -> str:
    """The answer to a request; no two requests have the same."""
    return digest(canonical_json(body["messages"])).hex()


def parsed(text: str) -> str:
    """A parser other than the first."""
    return text.upper()


def chain(url: str, rows: Sequence[str], prompt: str = LAST_PROMPT, parse: Any = "text", **fields: Any) -> Pipeline:
    """Three steps, each asking once for each row."""
    llm = LLM("openai/loopback", base_url=url, **{"concurrency": CONCURRENCY, "max_tries": 2} | fields)
    with Pipeline("chain") as pipeline:
        first = TextGeneration("first", llm=llm, template="first: {{ topic }}", output="first")
        second = TextGeneration("second", llm=llm, template="second: {{ first }}", output="second")
        third = TextGeneration("third", llm=llm, template=prompt, output="third", parse=parse)
        LoadDataFromDicts([{"topic": row} for row in rows], name="seed") >> first >> second >> third
    return pipeline


def topics(count: int) -> list[str]:
    return [f"topic {number}" for number in range(count)]


def logged(calls: Path) -> set[str]:
    """The answers in a call log; no writer may live."""
    found: set[str] = set()
    for path in calls.glob("segment-*.calls"):
        with path.open("rb") as file:
            found.update(fields[4] for _, fields in read_segment(file))
    for path in calls.glob("calls-*.parquet"):
        found.update(pq.read_table(path, columns=["text"]).column("text").to_pylist())
    return found


def asked(server: Loopback, since: int = 0) -> list[str]:
    """The answers to the requests that a server has seen, in the order of their arrival."""
    return [answer(request.body) for request in server.requests[since:]]


def run_as_program(pipeline_of: Callable[[str, Sequence[str]], Pipeline]) -> None:
    """Run the pipeline of an address and topics as the command line says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--engine", required=True)
    parser.add_argument("--rows", type=int, required=True)
    chosen = parser.parse_args()
    print("ready", flush=True)
    try:
        pipeline_of(chosen.url, topics(chosen.rows)).run(chosen.out, engine=chosen.engine)
    except StoppedError as error:
        print(error, flush=True)
        os._exit(error.exit_code)


if __name__ == "__main__":
    run_as_program(chain)
