"""What every task keeps to: missing columns, unreadable rows, several answers, its way through a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import (
    ChatGeneration,
    EvolInstruct,
    GenerateSentencePair,
    SelfInstruct,
    StructuredGeneration,
    TextClassification,
    TextGeneration,
    UltraFeedback,
)
from tests.books import balanced_run, failed, user_rows

MODEL = LLM("offline/stand-in")


USER = [{"role": "user", "content": "Why?"}]


PERSON = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


TASKS: dict[str, tuple[Any, dict[str, Any]]] = {
    "chat": (lambda **more: ChatGeneration("task", llm=MODEL, **more), {"messages": USER}),
    "structured": (
        lambda **more: StructuredGeneration("task", llm=MODEL, **more),
        {"instruction": "Who?", "structured_output": json.dumps(PERSON)},
    ),
    "label": (
        lambda **more: TextClassification("task", llm=MODEL, available_labels=["yes", "no"], **more),
        {"text": "Never."},
    ),
    "labels": (lambda **more: TextClassification("task", llm=MODEL, n=2, **more), {"text": "Never."}),
    "self": (lambda **more: SelfInstruct("task", llm=MODEL, **more), {"input": "bees"}),
    "evolve": (
        lambda **more: EvolInstruct("task", llm=MODEL, num_evolutions=2, generate_answers=True, **more),
        {"instruction": "Count."},
    ),
    "judge": (
        lambda **more: UltraFeedback("task", llm=MODEL, aspect="helpfulness", **more),
        {"instruction": "Say hi.", "generations": ["hi", "no"]},
    ),
    "pair": (
        lambda **more: GenerateSentencePair("task", llm=MODEL, action="query", triplet=True, **more),
        {"anchor": "Bees hum."},
    ),
}
"""How each task is made, and a row that it can read."""


every_task = pytest.mark.parametrize("name", TASKS)


@every_task
def test_a_task_that_lacks_a_column_is_refused_before_anything_runs(name: str, tmp_path: Path) -> None:
    make, row = TASKS[name]
    for column in row:
        others = {other: value for other, value in row.items() if other != column} | {"n": 1}
        with Pipeline("lacking") as pipeline:
            LoadDataFromDicts([others]) >> make()
        with pytest.raises(SpecError, match=rf"step 'task': requires inputs .*the inputs=\['{column}'\] are missing"):
            pipeline.run(tmp_path / "out", engine="local")
    assert not (tmp_path / "out").exists()


@every_task
def test_a_row_that_a_task_cannot_read_fails_alone_and_with_its_reason(name: str, tmp_path: Path) -> None:
    make, row = TASKS[name]
    column = next(iter(row))
    rows = [row | {"n": 0}, row | {"n": 1, column: None}, row | {"n": 2}]
    with Pipeline("one bad row") as pipeline:
        LoadDataFromDicts(rows) >> make()
    result = balanced_run(pipeline, tmp_path / "out")
    assert [made["n"] for made in user_rows(result["task"])] == [0, 2]
    ((where, kind, message, what),) = failed(result)
    assert (where, what["n"]) == ("task", 1)
    assert kind in ("input", "messages")
    assert f"column {column!r} is " in message


@every_task
def test_a_task_that_is_asked_for_several_answers_makes_a_row_of_each(name: str, tmp_path: Path) -> None:
    make, row = TASKS[name]
    with Pipeline("several") as pipeline:
        LoadDataFromDicts([row | {"n": n} for n in range(3)]) >> make(num_generations=2)
    made = balanced_run(pipeline, tmp_path / "out")["task"].to_arrow().to_pylist()
    assert [each["n"] for each in made] == [0, 0, 1, 1, 2, 2]
    assert len({each["_row_id"] for each in made}) == 6
    assert {each["model_name"] for each in made} == {"offline/stand-in"}


@every_task
def test_a_task_that_groups_its_answers_keeps_one_row_with_a_list_in_each_column(name: str, tmp_path: Path) -> None:
    make, row = TASKS[name]
    with Pipeline("grouped") as pipeline:
        LoadDataFromDicts([row | {"n": n} for n in range(2)]) >> make(num_generations=3, group_generations=True)
    written = make().answer_types()
    made = user_rows(balanced_run(pipeline, tmp_path / "out")["task"])
    assert [each["n"] for each in made] == [0, 1]
    for each in made:
        assert each["model_name"] == "offline/stand-in"
        assert {column: len(each[column]) for column in written} == dict.fromkeys(written, 3)


@every_task
@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_task_that_is_saved_comes_back_and_answers_the_same(name: str, suffix: str, tmp_path: Path) -> None:
    make, row = TASKS[name]
    with Pipeline("saved") as pipeline:
        LoadDataFromDicts([row]) >> make(num_generations=2, group_generations=True, add_model_name=False)
    path = tmp_path / f"saved.{suffix}"
    pipeline.save(path)
    loaded = Pipeline.from_file(path)
    assert loaded.steps[1] == pipeline.steps[1]
    assert user_rows(balanced_run(loaded, tmp_path / "b")["task"]) == user_rows(
        balanced_run(pipeline, tmp_path / "a")["task"]
    )


def test_a_task_whose_prompts_hold_odd_characters_comes_back_from_a_file(tmp_path: Path) -> None:
    odd = "ß: \"quoted\" #no comment\n\n  - {{ instruction }}\t'%' <PROMPT> \u2028 "
    tasks: list[Any] = [
        lambda: TextGeneration("a", llm=MODEL, template=odd, system_prompt=odd),
        lambda: EvolInstruct("b", llm=MODEL, mutation_templates={"yes": odd, "2": odd}),
        lambda: TextClassification("c", llm=MODEL, available_labels={"no": odd, "null": ""}, examples=[odd, "1"]),
        lambda: SelfInstruct("d", llm=MODEL, criteria_for_query_generation=odd, application_description=odd),
    ]
    for make in tasks:
        for suffix in ("yaml", "json"):
            with Pipeline("odd") as pipeline:
                LoadDataFromDicts([{"instruction": "i", "text": "t", "input": "x"}]) >> make()
            pipeline.save(tmp_path / f"odd.{suffix}")
            assert Pipeline.from_file(tmp_path / f"odd.{suffix}").steps[1] == pipeline.steps[1]
