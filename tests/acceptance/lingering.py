"""The pipelines of `test_phases`: each stays somewhere, for as long as a file `linger` is in its folder.

It says that it is there by writing the file `there`. The text of this module becomes a pipeline file of its own: it
must run by itself, in processes that have nothing of these tests.
"""

from __future__ import annotations

import os
import time
from typing import Any, ClassVar

from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import GeneratorStep, GlobalStep, LoadDataFromDicts, Step, StepInput, TextGeneration, step

FOLDER, KIND, URL = "{folder}", "{kind}", "{url}"
MOST_S = 100.0


def linger(kind: str, pause_s: float = 0.05) -> None:
    """Hold up whatever calls this, without giving way to anybody."""
    if kind != KIND:
        return
    deadline = time.monotonic() + MOST_S
    while os.path.exists(f"{FOLDER}/linger") and time.monotonic() < deadline:
        if not os.path.exists(f"{FOLDER}/there"):
            open(f"{FOLDER}/there", "w").close()
        if pause_s:
            time.sleep(pause_s)


class Loader(GeneratorStep):
    """Gives a few rows, and the others later."""

    outputs: ClassVar = ["topic"]

    def process(self, offset: int = 0) -> Any:
        yield [{"topic": f"early {number}"} for number in range(3)], False
        linger("loader")
        yield [{"topic": f"late {number}"} for number in range(3)], True


class Slow(Step):
    inputs: ClassVar = ["said"]
    outputs: ClassVar = ["done"]

    def load(self) -> None:
        linger("load")

    def unload(self) -> None:
        linger("unload")

    def process(self, inputs: StepInput) -> Any:
        linger("batch")
        yield [row | {"done": True} for row in inputs]


class Whole(GlobalStep):
    inputs: ClassVar = ["said"]
    outputs: ClassVar = ["count"]

    def process(self, inputs: StepInput) -> Any:
        linger("global")
        yield [{"count": len(inputs)}]


@step(inputs=["said"], outputs=["heard"])
async def listen(row: Any) -> Any:
    linger("loop")
    return {"heard": True}


def parse(text: str) -> str:
    linger("spin", 0.0)
    return text


def made() -> Pipeline:
    linger("import")
    llm = LLM("openai/loopback", base_url=URL, concurrency=4, max_tries=2)
    with Pipeline("lingering") as pipeline:
        source = Loader(name="seed") if KIND == "loader" else LoadDataFromDicts(
            [{"topic": f"topic {number}"} for number in range(6)], name="seed"
        )  # fmt: skip
        said = TextGeneration("said", llm=llm, template="say {{ topic }}", output="said", parse=parse)
        last: Any = {"load": Slow, "unload": Slow, "batch": Slow, "global": Whole}.get(KIND)
        if last is not None:
            source >> said >> last(name="last")
        elif KIND == "loop":
            source >> said >> listen("last")
        else:
            source >> said
    return pipeline


if KIND != "{" + "kind}":
    pipeline = made()
