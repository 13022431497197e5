"""Where rows come together no column is lost: it is refused with what to write, or it is kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import SpecError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline, routing_function, sample_n_steps
from raypipe.row import Values
from raypipe.steps import (
    Aggregate,
    CombineOutputs,
    ExpandColumns,
    Filter,
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
    TextGeneration,
    step,
)
from tests.books import Row, user_rows

MODEL = LLM("offline/x", options={"answers": ["a, b"]})
SEED: list[Row] = [{"id": number, "text": f"text {number}"} for number in range(3)]


def asked(name: str, **options: Any) -> TextGeneration:
    return TextGeneration(name, llm=MODEL, template="{{ id }}", **options)


def listed(name: str, **options: Any) -> TextGeneration:
    return asked(name, parse="comma_list", **options).scatter()


@step(inputs=["id"], outputs=["score"])
def scored(row: Values) -> Row:
    return {"score": row["id"]}


@step(inputs=["text"], outputs=["text"])
def shouted(row: Values) -> Row:
    return {"text": row["text"].upper()}


@step(inputs=["generation"], outputs=["generation"])
def cleaned(row: Values) -> Row:
    return {"generation": row["generation"].strip()}


def best(rows: list[Row]) -> Row:
    return {"best": rows[0]["generation"]}


def built(join: Callable[[Any], Any]) -> Pipeline:
    with Pipeline("built") as pipeline:
        join(LoadDataFromDicts(SEED, name="seed"))
    return pipeline


REFUSED: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "an answer": (
        lambda seed: seed >> asked("outline") >> listed("parts", output="part") >> asked("texts").aggregate(),
        "step 'texts'",
        "output_mappings={'generation': '…'} in step 'texts'",
    ),
    "the scatter's own": (
        lambda seed: seed >> asked("outline") >> listed("parts") >> Aggregate("back"),
        "step 'back'",
        "in step 'parts'",
    ),
    "an answer that a function changes": (
        lambda seed: (
            seed >> asked("outline") >> listed("p", output="p") >> asked("t") >> cleaned("c") >> Aggregate("b")
        ),
        "step 'b'",
        "in step 't'",
    ),
    "by root": (
        lambda seed: (
            seed >> listed("parts", output="part") >> asked("texts", output="text") >> Aggregate("b", by="root")
        ),
        "step 'b'",
        "output_mappings={'text': '…'} in step 'texts'",
    ),
    "a function's": (
        lambda seed: seed >> scored("first") >> listed("parts", output="part") >> scored("again") >> Aggregate("back"),
        "step 'back'",
        "output_mappings={'score': '…'} in step 'again'",
    ),
    "nested": (
        lambda seed: (
            seed
            >> asked("outline")
            >> listed("parts", output="part")
            >> KeepColumns("kept", columns=["id", "part"])
            >> listed("pieces", output="piece")
            >> asked("texts")
            >> Aggregate("inner")
            >> Aggregate("outer")
        ),
        "step 'outer'",
        "in step 'texts'",
    ),
    "collected inside": (
        lambda seed: (
            seed
            >> asked("outline")
            >> listed("parts", output="part")
            >> listed("pieces", output="piece")
            >> asked("texts")
            >> Aggregate("inner", columns=["generation"])
            >> Aggregate("outer")
        ),
        "step 'outer'",
        "let step 'inner' write another column",
    ),
    "renamed": (
        lambda seed: (
            seed
            >> scored("first")
            >> listed("parts", output="part")
            >> asked("texts", output_mappings={"generation": "score"})
            >> Aggregate("back")
        ),
        "step 'back'",
        "output_mappings={'generation': '…'} in step 'texts'",
    ),
    "branches": (
        lambda seed: seed >> [asked("one"), asked("two")] >> scored("met"),
        "step 'met'",
        "GroupColumns(columns=['generation'])",
    ),
    "branches that are combined": (
        lambda seed: seed >> [asked("one"), asked("two")] >> CombineOutputs("met"),
        "step 'met'",
        "output_mappings={'generation': '…'} in step 'one'",
    ),
    "two of three branches": (
        lambda seed: seed >> sample_n_steps(2) >> [asked("one"), asked("two"), asked("three")] >> scored("met"),
        "step 'met'",
        "output_mappings={'generation': '…'} in step 'one'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_column_that_would_be_lost_is_refused_with_what_to_write(case: str) -> None:
    join, where, said = REFUSED[case]
    with pytest.raises(SpecError) as caught:
        built(join).validate()
    [violation] = caught.value.violations
    assert violation.where == where
    assert said in violation.problem
    assert "would be lost" in violation.problem


def two_ways(seed: Any) -> Any:
    @routing_function
    def by_number(row: Values, steps: list[str]) -> list[str]:
        return [steps[row["id"] % 2]]

    return seed >> by_number >> [asked("one"), asked("two")] >> scored("met")


def left_out(seed: Any) -> Any:
    kept, met = KeepColumns("kept", columns=["id"]), scored("met")
    seed >> asked("one") >> kept >> met
    return seed >> asked("two") >> met


ANSWER = "a, b"
KEPT: dict[str, tuple[Callable[[Any], Any], Row]] = {
    "another name": (
        lambda seed: seed
        >> asked("outline")
        >> listed("parts", output="part")
        >> asked("texts", output_mappings={"generation": "chapter"}).aggregate(),
        {"generation": ANSWER, "part": ["a", "b"], "chapter": [ANSWER, ANSWER]},
    ),
    "named": (
        lambda seed: seed
        >> asked("outline")
        >> listed("parts", output="part")
        >> asked("texts")
        >> Aggregate("back", columns=["generation"]),
        {"generation": [ANSWER, ANSWER]},
    ),
    "as rows": (
        lambda seed: seed
        >> KeepColumns("kept", columns=["id"])
        >> asked("outline")
        >> listed("parts", output="part")
        >> KeepColumns("less", columns=["part", "generation"])
        >> Aggregate("back", as_rows="members"),
        {"generation": ANSWER, "members": [{"part": "a", "generation": ANSWER}, {"part": "b", "generation": ANSWER}]},
    ),
    "a function chooses": (
        lambda seed: seed >> asked("outline") >> listed("parts", output="part") >> asked("texts").custom(best),
        {"generation": ANSWER, "best": ANSWER},
    ),
    "chosen inside": (
        lambda seed: seed
        >> asked("outline")
        >> listed("parts", output="part")
        >> listed("pieces", output="piece")
        >> asked("texts").custom(best)
        >> Aggregate("outer", columns=["best"]),
        {"generation": ANSWER, "best": [ANSWER]},
    ),
    "items of a list": (
        lambda seed: seed >> asked("words", parse="comma_list") >> ExpandColumns("e", columns=["generation"])
        >> Aggregate("back"),
        {"generation": ["a", "b"]},
    ),
    "other letters": (
        lambda seed: seed >> listed("parts", output="part") >> shouted("loud") >> Aggregate("back"),
        {"text": "text 0", "part": ["a", "b"]},
    ),
    "a list of both": (
        lambda seed: seed >> [asked("one"), asked("two")] >> GroupColumns("met", columns=["generation"]),
        {"grouped_generation": [ANSWER, ANSWER]},
    ),
    "either branch": (two_ways, {"generation": ANSWER, "score": 0}),
    "one branch for each row": (
        lambda seed: seed >> [asked("one", when="id < 1"), asked("two", when="id >= 1")] >> scored("met"),
        {"generation": ANSWER, "score": 0},
    ),
    "left out before": (
        left_out,
        {"generation": ANSWER, "score": 0},
    ),
    "a filter": (
        lambda seed: seed >> listed("parts", output="part") >> Filter("some", keep="part == 'a'") >> Aggregate("back"),
        {"part": ["a"]},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", KEPT)
def test_a_column_that_is_told_apart_is_kept(case: str, tmp_path: Path) -> None:
    join, wanted = KEPT[case]
    result = built(join).run(tmp_path / "out", engine="local")
    row = user_rows(result["default"])[0]
    assert {name: row[name] for name in wanted} == wanted


def test_answers_are_collected_where_only_the_run_shows_that_the_parent_has_the_column(tmp_path: Path) -> None:
    def unknown(rows: list[Row]) -> list[Row]:
        return [{"generation": "before"} for _ in rows]

    with Pipeline("unknown") as pipeline:
        seed = LoadDataFromDicts(SEED, name="seed")
        (
            seed
            >> KeepColumns("kept", columns=["id"]).custom(unknown)
            >> listed("parts", output="part")
            >> asked("texts").aggregate()
        )
    result = pipeline.run(tmp_path / "out", engine="local")
    assert [row["generation"] for row in user_rows(result["default"])] == [[ANSWER, ANSWER]] * 3
