"""What was sent and answered, kept beside the columns of a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.chat import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import ChatGeneration, LoadDataFromDicts, SelfInstruct, TextClassification, TextGeneration
from tests.books import Row, user_rows
from tests.loopback import serve

MODEL = LLM("offline/stand-in", options={"answers": {"one": "first", "two": "second"}})
KEPT = {"add_raw_output": True, "add_raw_input": True}


def run(out: Path, rows: list[Row], *makes: Callable[[], Any]) -> list[Row]:
    with Pipeline("heard") as pipeline:
        before: Any = LoadDataFromDicts(rows, name="seed")
        for make in makes:
            before = before >> make()
    return user_rows(pipeline.run(out, engine="local")["default"])


def test_what_several_tasks_sent_and_were_answered_is_kept_by_their_names(tmp_path: Path) -> None:
    def first() -> TextGeneration:
        return TextGeneration("first", llm=MODEL, template="one {{ n }}", output="a", system_prompt="be brief", **KEPT)

    def second() -> ChatGeneration:
        return ChatGeneration(llm=MODEL, input_mappings={"messages": "turns"}, **KEPT)

    turns = [{"role": "user", "content": "two"}]
    [row] = run(tmp_path / "out", [{"n": 1, "turns": turns}], first, second)
    asked = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "one 1"}]
    assert row["distilabel_metadata"] == {
        "raw_input_first": asked,
        "raw_output_first": "first",
        "raw_input_chat_generation_0": turns,
        "raw_output_chat_generation_0": "second",
    }


@pytest.mark.parametrize(
    "make",
    [
        lambda **options: TextGeneration("task", llm=MODEL, template="one", **options),
        lambda **options: ChatGeneration("task", llm=MODEL, **options),
    ],
    ids=["template", "task"],
)
def test_each_answer_keeps_its_own_and_grouped_answers_a_list(tmp_path: Path, make: Any) -> None:
    rows = [{"messages": [{"role": "user", "content": "one"}]}]
    options = {"num_generations": 2, "add_raw_output": True}
    apart = run(tmp_path / "1", rows, lambda: make(**options))
    assert [row["distilabel_metadata"] for row in apart] == [{"raw_output_task": "first"}] * 2
    [row] = run(tmp_path / "2", rows, lambda: make(**options, group_generations=True))
    assert row["distilabel_metadata"] == [{"raw_output_task": "first"}] * 2
    [row] = run(tmp_path / "3", rows, lambda: make())
    assert "distilabel_metadata" not in row


def test_what_a_model_said_before_it_was_read_is_kept(tmp_path: Path) -> None:
    with serve(answer=lambda _: ' {"labels": "good"} ') as server:
        model = LLM("vllm-server/m", base_url=server.base_url)
        [row] = run(tmp_path / "out", [{"text": "fine"}], lambda: TextClassification("task", llm=model, **KEPT))
    assert row["labels"] == "good"
    assert row["distilabel_metadata"]["raw_output_task"].strip() == '{"labels": "good"}'
    assert row["distilabel_metadata"]["raw_input_task"] == server.requests[0].body["messages"]


@pytest.mark.parametrize("is_sent", [True, False])
def test_the_schema_of_a_task_is_sent_unless_it_is_not_wanted(tmp_path: Path, is_sent: bool) -> None:
    with serve(answer=lambda _: '{"instructions": ["do"]}') as server:
        model = LLM("vllm-server/m", base_url=server.base_url)
        made = run(
            tmp_path / "out",
            [{"input": "x"}],
            lambda: SelfInstruct("task", llm=model, use_default_structured_output=is_sent),
        )
    assert made[0]["instructions"] == ["do"]
    assert ("response_format" in server.requests[0].body) is is_sent
