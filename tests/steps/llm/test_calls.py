"""The calls of text generation in a run: limits, calls that hang, what is sent for each row, columns of a class."""

from __future__ import annotations

import datetime
import enum
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field

from raypipe.contracts.llm import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration
from tests.books import balanced_run, user_rows
from tests.loopback import SILENCE, serve

MODEL = LLM("offline/stand-in")


def test_a_call_that_hangs_holds_up_no_other_row(tmp_path: Path) -> None:
    with serve(script=[SILENCE]) as server, Pipeline("one hangs") as pipeline:
        llm = LLM("vllm-server/m", base_url=server.base_url, read_timeout_s=0.8)
        first = TextGeneration("first", llm=llm, output="draft")
        second = TextGeneration("second", llm=llm, template="Improve: {{ draft }}")
        LoadDataFromDicts([{"instruction": f"prompt {number}"} for number in range(12)]) >> first >> second
        result = balanced_run(pipeline, tmp_path / "out")
        sent = [request.body["messages"][0]["content"] for request in server.requests]
    assert (len(result["second"]), result.failed_rows, sent.count(sent[0]) > 1) == (12, 0, True)
    again = len(sent) - 1 - sent[::-1].index(sent[0])
    assert any(prompt.startswith("Improve") for prompt in sent[:again])


def test_answers_wanted_for_one_row_keep_to_the_limit_of_the_model(tmp_path: Path) -> None:
    with serve(latency_s=0.01) as server, Pipeline("limited") as pipeline:
        llm = LLM("vllm-server/m", base_url=server.base_url, concurrency=3)
        rows = LoadDataFromDicts([{"instruction": f"prompt {number}"} for number in range(4)])
        rows >> TextGeneration("answers", llm=llm, num_generations=8)
        assert len(balanced_run(pipeline, tmp_path / "out")["answers"]) == 32
        assert 1 < server.max_in_flight <= 3


def test_each_row_is_sent_with_its_own_system_prompt(tmp_path: Path) -> None:
    prompts = ["Be brief.", "Rhyme.", "{{ instruction }}"]
    with serve() as server, Pipeline("systems") as pipeline:
        llm = LLM("vllm-server/m", base_url=server.base_url)
        rows = LoadDataFromDicts([{"instruction": f"prompt {n}", "about": text} for n, text in enumerate(prompts)])
        rows >> TextGeneration("answers", llm=llm, system_prompt="{{ about }}")
        assert len(balanced_run(pipeline, tmp_path / "out")["answers"]) == 3
        sent = sorted(tuple(part["content"] for part in request.body["messages"]) for request in server.requests)
    assert sent == sorted((text, f"prompt {n}") for n, text in enumerate(prompts))


class Mood(enum.Enum):
    GOOD = "good"
    BAD = "bad"


class Visit(BaseModel):
    on: datetime.date
    mood: Mood
    tags: set[str] = set()


class Branch(BaseModel):
    label: str
    branches: list[Branch] = []


class Report(BaseModel):
    name: str | None
    kind: Literal["long", "short"]
    visit: Visit
    visits: list[Visit] = Field(min_length=1, max_length=3)
    counts: dict[str, int]
    either: int | str
    tree: Branch


def test_a_class_with_classes_enumerations_and_itself_inside_becomes_columns(tmp_path: Path) -> None:
    with Pipeline("complex") as pipeline:
        rows = LoadDataFromDicts([{"instruction": f"Report on day {number}."} for number in range(5)])
        rows >> TextGeneration("reports", llm=MODEL, structured_output=Report)
    made = user_rows(balanced_run(pipeline, tmp_path / "out")["reports"])
    assert len(made) == 5
    for row in made:
        assert set(row) == {"instruction", *Report.model_fields}
        assert row["visit"]["mood"] in ("good", "bad")
        assert Visit.model_validate(row["visit"])
        assert all(Visit.model_validate(visit) for visit in row["visits"])
        assert isinstance(row["tree"]["label"], str)
