"""The pipelines whose run folders are kept as version 0.1.0 wrote them.

Each is built from the address of a server, so that a test can run it again and count what is sent. Names, prompts
and inputs are part of the calls' identities: a change here makes the kept folders useless.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raypipe.contracts.llm import LLM
from raypipe.identity import canonical_json, digest
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, LoadDataFromFileSystem, TextGeneration, step
from raypipe.steps.functions.batch_steps import GlobalStep
from raypipe.workflows import ConditionBuilder, Edge, Expression, Read, Workflow, WorkflowBuilder, WorkflowStep, Write

KEPT = Path(__file__).parent / "version_0_1_0"
INPUTS = KEPT / "inputs"
RUNS = KEPT / "runs"
REFUSED = {400: 0.25}
"""Share of the requests that the server refused when `failures` was recorded, seeded by the request."""


def answer(body: dict[str, Any]) -> str:
    """The answer to a request; no two requests have the same."""
    prompt = body["messages"][-1]["content"]
    if prompt.startswith("good?"):
        return "yes" if prompt.endswith("++") else "no"
    if prompt.startswith("write "):
        return prompt.partition(": ")[2] + "+"
    return digest(canonical_json(body["messages"])).hex()


def halves(text: str) -> list[str]:
    """Two parts of an answer."""
    return [text[:16], text[16:]]


def flat(url: str) -> Pipeline:
    """Three steps, one call a row each."""
    with Pipeline("flat") as pipeline:
        seed = LoadDataFromDicts([{"topic": f"topic {n}"} for n in range(6)], name="seed")
        first = TextGeneration("first", llm=_model(url), template="first {{ topic }}", output="first")
        second = TextGeneration("second", llm=_model(url), template="second {{ first }}", output="second")
        seed >> first >> second >> TextGeneration("third", llm=_model(url), template="{{ second }}", output="third")
    return pipeline


def scatter(url: str) -> Pipeline:
    """A scatter, a step behind it, and its rows gathered again."""
    with Pipeline("scatter") as pipeline:
        seed = LoadDataFromDicts([{"topic": f"topic {n}", "n": n} for n in range(4)], name="seed")
        parts = TextGeneration("parts", llm=_model(url), template="{{ topic }}", output="part", parse=halves)
        judge = TextGeneration("judge", llm=_model(url), template="judge {{ part }}", output="verdict")
        seed >> parts.scatter() >> judge.aggregate()
    return pipeline


@step(outputs=["answer"])
async def debate(row: dict[str, Any], llm: Any) -> dict[str, Any]:
    """Three calls, each from the answer before."""
    draft = await llm(f"Answer: {row['topic']}")
    for _ in range(2):
        draft = await llm(f"Improve: {draft}")
    return {"answer": draft}


def workflow(url: str) -> Pipeline:
    """Several calls for one row, in plain Python and in a workflow that goes round."""
    with Pipeline("workflow") as pipeline:
        seed = LoadDataFromDicts([{"topic": f"topic {n}"} for n in range(3)], name="seed")
        judged = WorkflowStep("judged", llm=_model(url), workflow=_judged(), output="text")
        seed >> debate(name="debate", llm=_model(url)) >> judged
    return pipeline


def _judged() -> Workflow:
    builder = WorkflowBuilder(topic=None, text="")
    builder.generative_step(id="write", prompt="write {{topic}}: {{text}}", outputs=[Write.new("text")])
    builder.generative_step(id="judge", prompt="good? {{text}}", outputs=[Write.new("verdict")])
    condition = ConditionBuilder.build(Read.new("verdict"), Expression.EQUAL, "yes", "write")
    builder.flow([Edge("write", "judge"), Edge("judge", "_end", condition)])
    return builder.set_return_value("text").build()


def failures(url: str) -> Pipeline:
    """Some rows are refused, in both steps."""
    with Pipeline("failures") as pipeline:
        seed = LoadDataFromDicts([{"topic": f"topic {n}"} for n in range(12)], name="seed")
        parts = TextGeneration("parts", llm=_model(url), template="{{ topic }}", output="part", parse=halves)
        seed >> parts.scatter() >> TextGeneration("judge", llm=_model(url), template="judge {{ part }}", output="said")
    return pipeline


def _of_files(name: str, *paths: Path) -> Callable[[str], Pipeline]:
    def build(url: str) -> Pipeline:
        with Pipeline(name) as pipeline:
            seed = LoadDataFromFileSystem(data_files=[str(path) for path in paths], name="seed")
            seed >> TextGeneration("said", llm=_model(url), template="about {{ topic }}", output="said")
        return pipeline

    return build


class Numbered(GlobalStep):
    """Gives every row its number."""

    @property
    def outputs(self) -> Any:
        return ["number"]

    def process(self, inputs: Any) -> Any:
        yield [{**row, "number": number} for number, row in enumerate(inputs)]


def stages(url: str) -> Pipeline:
    """A global step between two calls."""
    with Pipeline("stages") as pipeline:
        seed = LoadDataFromDicts([{"topic": f"topic {n}"} for n in range(5)], name="seed")
        first = TextGeneration("first", llm=_model(url), template="first {{ topic }}", output="first")
        last = TextGeneration("last", llm=_model(url), template="{{ number }} {{ first }}", output="last")
        seed >> first >> Numbered(name="numbered") >> last
    return pipeline


def _model(url: str) -> LLM:
    return LLM("openai/loopback", base_url=url, concurrency=4, max_tries=1)


CASES: dict[str, Callable[[str], Pipeline]] = {
    "flat": flat,
    "scatter": scatter,
    "workflow": workflow,
    "failures": failures,
    "stages": stages,
    "csv": _of_files("csv", INPUTS / "table.csv"),
    "types": _of_files("types", INPUTS / "types.parquet"),
    "nanoseconds": _of_files("nanoseconds", INPUTS / "nanoseconds.parquet"),
    "nanoseconds_pandas": _of_files("nanoseconds_pandas", INPUTS / "nanoseconds.parquet"),
    "lines": _of_files("lines", INPUTS / "lines.jsonl"),
    "two_folders": _of_files("two_folders", INPUTS / "folder_a", INPUTS / "folder_b"),
    "killed": flat,
    "store": flat,
}
"""Pipelines by the name of their kept folder.

`killed` holds segments of a call log whose run was killed, the last frame cut; `store` is the copy of a folder that
stood in a store.
"""
