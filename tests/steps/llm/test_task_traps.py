"""What tasks and steps do in a run where rows, answers and branches are not as one would like them."""

from __future__ import annotations

import asyncio
import datetime
import enum
import json
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from raypipe.contracts.llm import LLM
from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import (
    ExpandColumns,
    FormatTextGenerationDPO,
    GroupColumns,
    LoadDataFromDicts,
    MergeColumns,
    MinHashDedup,
    step,
)
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
from tests.books import assert_balanced, failed, user_rows
from tests.loopback import SILENCE, serve

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


def run(pipeline: Pipeline, tmp_path: Path) -> Result:
    result = pipeline.run(tmp_path / "out", engine="local", max_failed_rows=1000)
    assert_balanced(pipeline.graph(), result)
    return result


# Every task.


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
    result = run(pipeline, tmp_path)
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
    made = run(pipeline, tmp_path)["task"].to_arrow().to_pylist()
    assert [each["n"] for each in made] == [0, 0, 1, 1, 2, 2]
    assert len({each["_row_id"] for each in made}) == 6
    assert {each["model_name"] for each in made} == {"offline/stand-in"}


@every_task
def test_a_task_that_groups_its_answers_keeps_one_row_with_a_list_in_each_column(name: str, tmp_path: Path) -> None:
    make, row = TASKS[name]
    with Pipeline("grouped") as pipeline:
        LoadDataFromDicts([row | {"n": n} for n in range(2)]) >> make(num_generations=3, group_generations=True)
    written = make().answer_types()
    made = user_rows(run(pipeline, tmp_path)["task"])
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
    assert user_rows(run(loaded, tmp_path / "b")["task"]) == user_rows(run(pipeline, tmp_path / "a")["task"])


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


# Calls.


def test_a_call_that_hangs_holds_up_no_other_row(tmp_path: Path) -> None:
    with serve(script=[SILENCE]) as server, Pipeline("one hangs") as pipeline:
        llm = LLM("vllm-server/m", base_url=server.base_url, read_timeout_s=0.8)
        first = TextGeneration("first", llm=llm, output="draft")
        second = TextGeneration("second", llm=llm, template="Improve: {{ draft }}")
        LoadDataFromDicts([{"instruction": f"prompt {number}"} for number in range(12)]) >> first >> second
        result = run(pipeline, tmp_path)
        sent = [request.body["messages"][0]["content"] for request in server.requests]
    assert (len(result["second"]), result.failed_rows, sent.count(sent[0]) > 1) == (12, 0, True)
    again = len(sent) - 1 - sent[::-1].index(sent[0])
    assert any(prompt.startswith("Improve") for prompt in sent[:again])


def test_answers_wanted_for_one_row_keep_to_the_limit_of_the_model(tmp_path: Path) -> None:
    with serve(latency_s=0.01) as server, Pipeline("limited") as pipeline:
        llm = LLM("vllm-server/m", base_url=server.base_url, concurrency=3)
        rows = LoadDataFromDicts([{"instruction": f"prompt {number}"} for number in range(4)])
        rows >> TextGeneration("answers", llm=llm, num_generations=8)
        assert len(run(pipeline, tmp_path)["answers"]) == 32
        assert 1 < server.max_in_flight <= 3


def test_rows_do_not_depend_on_the_size_of_a_batch(tmp_path: Path) -> None:
    made: list[Any] = []
    for size in (1, 7, 50, 1000):
        with Pipeline("batches") as pipeline:
            rows = LoadDataFromDicts([{"text": f"text number {number}"} for number in range(53)])
            rows >> TextClassification("task", llm=MODEL, n=2, input_batch_size=size)
        made.append(run(pipeline, tmp_path / str(size))["task"].to_arrow().to_pylist())
    assert [row["text"] for row in made[0]] == [f"text number {number}" for number in range(53)]
    assert all(rows == made[0] for rows in made)


def test_an_answer_that_cannot_be_read_fails_its_row_alone(tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> str:
        content = body["messages"][0]["content"]
        return "no JSON" if "text 3" in content else '{"labels": "fine"}'

    with serve(answer=answer) as server, Pipeline("one answer") as pipeline:
        rows = LoadDataFromDicts([{"text": f"text {number}"} for number in range(8)])
        rows >> TextClassification("task", llm=LLM("vllm-server/m", base_url=server.base_url))
        result = run(pipeline, tmp_path)
    assert [row["text"] for row in user_rows(result["task"])] == [f"text {n}" for n in range(8) if n != 3]
    assert {row["labels"] for row in user_rows(result["task"])} == {"fine"}
    assert failed(result) == [("task", "schema", "the completion is not JSON: 'no JSON'", {"text": "text 3"})]


def test_a_row_with_an_unsound_schema_fails_alone_beside_rows_with_others(tmp_path: Path) -> None:
    forms = [PERSON, {"type": "objct"}, {"format": "regex", "schema": "[ab]{2}"}, None, {"type": "array"}]
    rows = [
        {"instruction": "Go.", "structured_output": None if form is None else json.dumps(form), "n": number}
        for number, form in enumerate(forms)
    ]
    with Pipeline("schemas") as pipeline:
        LoadDataFromDicts(rows) >> StructuredGeneration("task", llm=MODEL)
    result = run(pipeline, tmp_path)
    made = {row["n"]: row["generation"] for row in user_rows(result["task"])}
    assert list(made) == [0, 2, 3, 4]
    assert list(json.loads(made[0])) == ["name"]
    assert len(made[2]) == 2 and set(made[2]) <= {"a", "b"}
    assert isinstance(json.loads(made[4]), list)
    assert [(kind, row["n"]) for _, kind, _, row in failed(result)] == [("schema", 1)]


def test_each_row_is_sent_with_its_own_system_prompt(tmp_path: Path) -> None:
    prompts = ["Be brief.", "Rhyme.", "{{ instruction }}"]
    with serve() as server, Pipeline("systems") as pipeline:
        llm = LLM("vllm-server/m", base_url=server.base_url)
        rows = LoadDataFromDicts([{"instruction": f"prompt {n}", "about": text} for n, text in enumerate(prompts)])
        rows >> TextGeneration("answers", llm=llm, system_prompt="{{ about }}")
        assert len(run(pipeline, tmp_path)["answers"]) == 3
        sent = sorted(tuple(part["content"] for part in request.body["messages"]) for request in server.requests)
    assert sent == sorted((text, f"prompt {n}") for n, text in enumerate(prompts))


def test_instructions_that_a_task_makes_are_evolved_and_labelled_one_by_one(tmp_path: Path) -> None:
    with Pipeline("chain") as pipeline:
        rows = LoadDataFromDicts([{"input": topic} for topic in ("bees", "ships", "rain")])
        made = SelfInstruct("made", llm=MODEL, num_instructions=3, output_mappings={"instructions": "instruction"})
        evolved = EvolInstruct("evolved", llm=MODEL, num_evolutions=2, store_evolutions=True)
        label = TextClassification("label", llm=MODEL, input_mappings={"text": "evolved_instructions"})
        rows >> made.scatter() >> evolved.scatter() >> label
    result = run(pipeline, tmp_path)
    found = user_rows(result["label"])
    counts = result.manifest["steps"]
    assert counts["evolved"]["rows_in"] == counts["made"]["rows_out"] >= 3
    assert len(found) == 2 * counts["made"]["rows_out"]
    assert list(dict.fromkeys(row["input"] for row in found)) == ["bees", "ships", "rain"]
    for row in found:
        assert row["instruction"] and row["evolved_instructions"] != row["instruction"]
        assert row["labels"]


# Schemas that are more than a list of texts.


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
    made = user_rows(run(pipeline, tmp_path)["reports"])
    assert len(made) == 5
    for row in made:
        assert set(row) == {"instruction", *Report.model_fields}
        assert row["visit"]["mood"] in ("good", "bad")
        assert Visit.model_validate(row["visit"])
        assert all(Visit.model_validate(visit) for visit in row["visits"])
        assert isinstance(row["tree"]["label"], str)


# Branches.


@step(inputs=["n"], outputs=["found", "of"])
async def late_if_even(row: Values) -> dict[str, Any]:
    await asyncio.sleep(0.02 if row["n"] % 2 == 0 else 0)
    return {"found": row["n"], "of": "even"}


@step(inputs=["n"], outputs=["found", "of"])
async def late_if_odd(row: Values) -> dict[str, Any]:
    await asyncio.sleep(0.02 if row["n"] % 2 else 0)
    return {"found": -row["n"], "of": "odd"}


def test_branches_that_end_in_another_order_meet_row_by_row(tmp_path: Path) -> None:
    with Pipeline("late") as pipeline:
        branches = [late_if_even("first"), late_if_odd("second")]
        LoadDataFromDicts([{"n": n} for n in range(75)]) >> branches >> GroupColumns("met", columns=["found"])
    assert user_rows(run(pipeline, tmp_path)["met"]) == [
        {"n": n, "of": "odd", "grouped_found": [n, -n]} for n in range(75)
    ]


def test_branches_that_group_their_answers_meet_as_lists_of_lists(tmp_path: Path) -> None:
    with Pipeline("nested") as pipeline:
        models = [LLM(f"offline/{name}") for name in ("one", "two")]
        branches: list[Any] = [
            TextGeneration(f"by_{llm.model}", llm=llm, num_generations=2, group_generations=True) for llm in models
        ]
        met = GroupColumns("met", columns=["generation", "model_name"], output_columns=["generations", "models"])
        LoadDataFromDicts([{"instruction": f"Tell me of {n}."} for n in range(3)]) >> branches >> met
    rows = user_rows(run(pipeline, tmp_path)["met"])
    assert [row["models"] for row in rows] == [["offline/one", "offline/two"]] * 3
    assert [[len(answers) for answers in row["generations"]] for row in rows] == [[2, 2]] * 3
    assert all(isinstance(text, str) and text for row in rows for answers in row["generations"] for text in answers)


def test_a_branch_that_answers_in_rows_cannot_meet_one_that_does_not(tmp_path: Path) -> None:
    with Pipeline("uneven") as pipeline:
        branches: list[Any] = [TextGeneration("three", llm=MODEL, num_generations=3), TextGeneration("one", llm=MODEL)]
        LoadDataFromDicts([{"instruction": "Go."}]) >> branches >> GroupColumns("met", columns=["generation"])
    with pytest.raises(SpecError, match="step 'met': comes after branches with different open scatters"):
        pipeline.run(tmp_path / "out", engine="local")


def test_judged_answers_of_several_models_become_preferences_with_the_right_models(tmp_path: Path) -> None:
    with Pipeline("preferences") as pipeline:
        answers: list[Any] = [
            TextGeneration(f"by_{name}", llm=LLM(f"offline/{name}")) for name in ("one", "two", "three")
        ]
        met = GroupColumns(
            "met", columns=["generation", "model_name"], output_columns=["generations", "generation_models"]
        )
        rows = LoadDataFromDicts([{"instruction": f"Tell me of {n}."} for n in range(12)])
        rows >> answers >> met >> UltraFeedback("judge", llm=MODEL) >> FormatTextGenerationDPO("pairs")
    result = run(pipeline, tmp_path)
    made = user_rows(result["pairs"])
    assert made
    for row in made:
        by_text = dict(zip(row["generations"], row["generation_models"], strict=True))
        ratings = dict(zip(row["generations"], row["ratings"], strict=True))
        for end, best in (("chosen", max), ("rejected", min)):
            text = row[end][-1]["content"]
            assert (by_text[text], ratings[text]) == (row[f"{end}_model"], row[f"{end}_rating"])
            assert row[f"{end}_rating"] == best(row["ratings"])
        assert row["chosen"] != row["rejected"]
    assert len(made) + result.failed_rows == 12
    assert {kind for _, kind, _, _ in failed(result)} <= {"tie"}


# Lists and rows.


def test_lists_of_unequal_length_are_filled_with_nulls_of_their_own_type(tmp_path: Path) -> None:
    rows = [
        {"a": [1, 2, 3], "b": ["x"], "n": 0},
        {"a": [], "b": [], "n": 1},
        {"a": None, "b": ["y", "z"], "n": 2},
        {"a": [4], "b": None, "n": 3},
    ]
    with Pipeline("unequal") as pipeline:
        LoadDataFromDicts(rows) >> ExpandColumns("items", columns=["a", "b"])
    result = run(pipeline, tmp_path)
    assert [(row["n"], row["a"], row["b"]) for row in user_rows(result["items"])] == [
        (0, 1, "x"),
        (0, 2, None),
        (0, 3, None),
        (2, None, "y"),
        (2, None, "z"),
        (3, 4, None),
    ]
    counts = result.manifest["steps"]["items"]
    assert (counts["rows_in"], counts["rows_done"], counts["rows_failed"], counts["rows_out"]) == (4, 4, 0, 6)


def test_grouped_answers_are_taken_apart_into_the_rows_they_would_have_been(tmp_path: Path) -> None:
    def answers(**options: Any) -> Any:
        rows = LoadDataFromDicts([{"instruction": f"Tell me of {n}."} for n in range(3)])
        return rows >> TextGeneration("answers", llm=MODEL, num_generations=3, add_model_name=True, **options)

    with Pipeline("grouped") as grouped:
        answers(group_generations=True) >> ExpandColumns("rows", columns=["generation"])
    with Pipeline("rows") as plain:
        answers()
    expanded = user_rows(run(grouped, tmp_path / "a")["rows"])
    assert len(expanded) == 9
    assert expanded == user_rows(run(plain, tmp_path / "b")["answers"])


def test_merged_columns_are_judged_in_their_order_without_those_that_are_null(tmp_path: Path) -> None:
    rows = [{"instruction": "Go.", "a": "first", "b": second, "c": "third"} for second in ("second", None)]
    with Pipeline("merged") as pipeline:
        merged = MergeColumns("merged", columns=["c", "a", "b"], output_column="generations")
        LoadDataFromDicts(rows) >> merged >> UltraFeedback("judge", llm=MODEL)
    whole, gap = user_rows(run(pipeline, tmp_path)["judge"])
    assert whole["generations"] == ["third", "first", "second"]
    assert gap["generations"] == ["third", "first", None]
    assert [rating is None for rating in whole["ratings"]] == [False, False, False]
    assert [rating is None for rating in gap["ratings"]] == [False, False, True]
    assert "a" not in whole


def test_repeated_texts_are_flagged_across_batches_and_no_row_is_taken_away(tmp_path: Path) -> None:
    pytest.importorskip("datasketch")
    texts = [" ".join(f"word{number}{letter}" for letter in "abcdef") for number in range(60)]
    rows = [{"text": texts[number % 60], "n": number} for number in range(130)]
    with Pipeline("flagged") as pipeline:
        LoadDataFromDicts(rows) >> MinHashDedup("flags", input_batch_size=10)
    made = user_rows(run(pipeline, tmp_path)["flags"])
    assert [row["n"] for row in made] == list(range(130))
    assert [row["n"] for row in made if row["keep_row_after_minhash_filtering"]] == list(range(60))
