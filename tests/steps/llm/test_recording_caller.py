"""What was sent and answered, kept beside the columns of a task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import (
    ChatGeneration,
    CombineOutputs,
    KeepColumns,
    LoadDataFromDicts,
    SelfInstruct,
    TextClassification,
    TextGeneration,
)
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


@pytest.mark.parametrize("grouped", [False, True], ids=["apart", "grouped"])
@pytest.mark.parametrize(
    "make",
    [
        lambda **options: TextGeneration("task", template="{{ text }}", parse="json", output="labels", **options),
        lambda **options: TextClassification("task", **options),
    ],
    ids=["template", "task"],
)
def test_an_answer_that_cannot_be_read_is_kept_beside_nulls(tmp_path: Path, make: Any, grouped: bool) -> None:
    def first() -> TextGeneration:
        return TextGeneration("first", llm=MODEL, template="one", output="a", add_raw_output=True)

    with serve(answer=lambda _: "no such thing") as server:
        model = LLM("vllm-server/m", base_url=server.base_url)
        options = {"llm": model, "on_error": "null", "add_raw_output": True}
        more = {"num_generations": 2, "group_generations": True} if grouped else {}
        [row] = run(tmp_path / "out", [{"text": "fine"}], first, lambda: make(**options, **more))
    kept = {"raw_output_first": "first", "raw_output_task": "no such thing"}
    assert (row["a"], row["labels"]) == ("first", None)
    assert row["distilabel_metadata"] == ([kept, kept] if grouped else kept)


def test_what_was_kept_in_several_branches_is_kept_where_they_meet(tmp_path: Path) -> None:
    def asking(name: str, **options: Any) -> TextGeneration:
        return TextGeneration(name, llm=MODEL, template="one", output=name, add_raw_output=True, **options)

    kept = {f"raw_output_{name}": "first" for name in ("before", "left", "right")}
    with Pipeline("met") as pipeline:
        start = LoadDataFromDicts([{"n": 1}], name="seed") >> asking("before")
        start >> [asking("left"), asking("right"), KeepColumns("none", columns=["n"])] >> CombineOutputs("met")
    [row] = user_rows(pipeline.run(tmp_path / "out", engine="local")["met"])
    assert row["distilabel_metadata"] == kept
    with Pipeline("grouped") as pipeline:
        start = LoadDataFromDicts([{"n": 1}], name="seed") >> asking("before")
        two = {"num_generations": 2, "group_generations": True}
        start >> [asking("left", **two), asking("right")] >> CombineOutputs("met")
    [row] = user_rows(pipeline.run(tmp_path / "grouped", engine="local")["met"])
    assert row["distilabel_metadata"] == [kept, kept]
