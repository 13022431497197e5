"""Preference pairs of two models: one for each instruction on which the judge prefers an answer."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from tests.configs.shipped import ran, rows_of, shipped

COLUMNS = ["prompt", "prompt_id", "chosen", "rejected"]
COLUMNS += ["chosen_rating", "rejected_rating", "chosen_model", "rejected_model", "input"]


def verdicts(first: int | None, second: int | None) -> dict[str, Any]:
    return {f"text_{n}": {"rationale": "said", "rating": rating} for n, rating in ((1, first), (2, second))}


def answered(rating: dict[str, Any], second: str = "From the rival.") -> dict[str, dict[str, Any]]:
    instructions = {"instructions": [f"Do {n}." for n in range(5)]}
    writer = {"Users give": instructions, "## Instruction": "Do it better.", "": "From the writer."}
    return {"writer": writer, "rival": {"": second}, "judge": {"": rating}}


def test_every_instruction_becomes_a_pair_for_training(tmp_path: Path) -> None:
    result = ran(shipped("evol_preferences"), tmp_path)
    counts = {name: figures["rows_out"] for name, figures in result.manifest["steps"].items()}
    assert [counts[name] for name in ("seed", "instructions", "evolved", "both", "judged")] == [3, 15, 15, 15, 15]
    rows = rows_of(result)
    assert len(rows) == counts["decided"] == 15 - result.manifest["steps"]["decided"]["rows_filtered"]
    for row in rows:
        assert list(row)[:9] == COLUMNS
        assert row["prompt_id"] == hashlib.sha256(row["prompt"].encode()).hexdigest()
        assert row["chosen_rating"] > row["rejected_rating"]
        assert {row["chosen_model"], row["rejected_model"]} == {"offline/writer", "offline/rival"}
        for side in ("chosen", "rejected"):
            asked, answer = row[side]
            assert asked == {"role": "user", "content": row["prompt"]}
            assert answer["role"] == "assistant" and answer["content"]
        assert row["chosen"][1] != row["rejected"][1]


def test_the_better_answer_is_chosen_whichever_model_gave_it(tmp_path: Path) -> None:
    row = rows_of(ran(shipped("evol_preferences", answers=answered(verdicts(2, 5))), tmp_path))[0]
    assert [row["chosen"][1]["content"], row["rejected"][1]["content"]] == ["From the rival.", "From the writer."]
    assert [row["chosen_model"], row["chosen_rating"], row["rejected_rating"]] == ["offline/rival", 5.0, 2.0]
    assert row["prompt"] == "Do it better."


def test_what_is_no_preference_is_left_out_and_fails_nothing(tmp_path: Path) -> None:
    cases = [answered(verdicts(3, 3)), answered(verdicts(None, 4)), answered(verdicts(1, 5), "From the writer.")]
    for number, answers in enumerate(cases):
        result = ran(shipped("evol_preferences", answers=answers), tmp_path / str(number))
        assert (len(rows_of(result)), result.manifest["steps"]["decided"]["rows_filtered"]) == (0, 15)


def test_a_row_that_one_model_did_not_answer_is_left_out(tmp_path: Path) -> None:
    silent = "first.llm={uri: offline/silent, max_tokens: 9, options: {reject_share: 1.0}}"
    result = shipped("evol_preferences", [silent]).run(tmp_path / "out", engine="local", max_failed_rows=15)
    steps = result.manifest["steps"]
    assert [steps[name]["rows_failed"] for name in ("first", "both", "judged", "pairs")] == [15, 0, 0, 0]
    assert (steps["decided"]["rows_filtered"], rows_of(result)) == (15, [])
