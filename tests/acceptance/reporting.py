"""A pipeline of two stages with failures and artifacts, and a program that runs it on nodes that share nothing.

The workers of each node write in a folder of their own: what one has on its disk no other sees.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from raypipe.contracts.llm import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import GlobalStep, LoadDataFromDicts, StepInput, TextGeneration
from tests.acceptance.chain import CONCURRENCY, topics


class Report(GlobalStep):
    """Saves how many rows there are."""

    def process(self, inputs: StepInput) -> Any:
        self.save_artifact("report", lambda folder: (folder / "rows.txt").write_text(str(len(inputs))))
        yield inputs


def not_three(text: str) -> str:
    """A parser that one row does not pass."""
    if text.endswith("3"):
        raise ValueError("three")
    return text


def reporting(url: str, rows: int, **fields: Any) -> Pipeline:
    """Two stages, rows that fail, artifacts."""
    llm = LLM("openai/loopback", base_url=url, concurrency=CONCURRENCY, **fields)
    with Pipeline("reporting") as pipeline:
        ask = TextGeneration("ask", llm=llm, template="say {{ topic }}", output="said", parse=not_three)
        again = TextGeneration("again", llm=llm, template="again {{ said }}", output="again")
        LoadDataFromDicts([{"topic": row} for row in topics(rows)], name="seed") >> ask >> Report("report") >> again
    return pipeline


def echo(body: dict[str, Any]) -> str:
    return body["messages"][0]["content"].removeprefix("say ")


def main() -> None:
    from raypipe.execution.ray.session import load

    load()
    import ray
    from ray.cluster_utils import Cluster

    parser = argparse.ArgumentParser()
    for name in ("--url", "--out", "--disk"):
        parser.add_argument(name, required=True)
    parser.add_argument("--rows", type=int, required=True)
    chosen = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    cluster.add_node(num_cpus=2, env_vars={"TMPDIR": chosen.disk})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    try:
        reporting(chosen.url, chosen.rows, replicas=4).run(chosen.out, engine="ray")
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    sys.modules["tests.acceptance.reporting"] = sys.modules["__main__"]
    main()
