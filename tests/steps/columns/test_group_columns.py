"""Branches that meet: row by row, whatever order they end in."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import SpecError
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import FormatTextGenerationDPO, GroupColumns, LoadDataFromDicts, step
from raypipe.steps.tasks import TextGeneration, UltraFeedback
from tests.books import balanced_run, failed, user_rows

MODEL = LLM("offline/stand-in")


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
    assert user_rows(balanced_run(pipeline, tmp_path / "out")["met"]) == [
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
    rows = user_rows(balanced_run(pipeline, tmp_path / "out")["met"])
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
    result = balanced_run(pipeline, tmp_path / "out")
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
