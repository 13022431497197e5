"""The program that tests kill inside a row: a judge says no, no, yes, and each no asks for another text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.workflows import ConditionBuilder, Edge, Expression, Read, WorkflowBuilder, WorkflowStep, Write
from tests.acceptance.chain import run_as_program


def answer(body: dict[str, Any]) -> str:
    """A text is told from the one before it by one more plus sign; three are enough."""
    prompt = body["messages"][-1]["content"]
    if prompt.startswith("good?"):
        return "yes" if prompt.endswith("+++") else "no"
    return prompt.partition(": ")[2] + "+"


def looped(url: str, rows: Sequence[str], max_steps: int = 50) -> Pipeline:
    builder = WorkflowBuilder(topic=None, text="")
    builder.generative_step(id="write", prompt="write {{topic}}: {{text}}", outputs=[Write.new("text")])
    builder.generative_step(id="judge", prompt="good? {{topic}} {{text}}", outputs=[Write.new("verdict")])
    good = ConditionBuilder.build(Read.new("verdict"), Expression.EQUAL, "yes", "write")
    builder.flow([Edge("write", "judge"), Edge("judge", "_end", good)])
    builder.set_max_steps(max_steps).set_return_value("text")
    llm = LLM("openai/loopback", base_url=url, concurrency=4)
    with Pipeline("looped") as pipeline:
        seed = LoadDataFromDicts([{"topic": topic} for topic in rows], name="seed")
        seed >> WorkflowStep("work", workflow=builder, llm=llm, output="poem")
    return pipeline


if __name__ == "__main__":
    run_as_program(looped)
