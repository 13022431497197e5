"""A part of a pipeline is repeated until enough of what it makes is accepted."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import SpecError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import (
    Aggregate,
    Candidates,
    Filter,
    GroupColumns,
    KeepColumns,
    LoadDataFromDicts,
    TextGeneration,
    Until,
    step,
)
from tests.books import assert_balanced, assert_in_source_order, failed, user_rows
from tests.loopback import serve


@step(inputs=["n", "candidate"], outputs=["score"])
def judged(row: Any) -> Any:
    return {"score": random.Random(f"{row['n']}/{row['candidate']}").randrange(4)}


def accepted(n: int, wanted: int, most: int) -> list[int]:
    """The candidates that a run must accept: the first with a score of 3."""
    return [c for c in range(most) if random.Random(f"{n}/{c}").randrange(4) == 3][:wanted]


def repeated(rows: int, wanted: int, most: int, engine: str, out: Path) -> Result:
    with Pipeline("repeated") as pipeline:
        seed = LoadDataFromDicts([{"n": n} for n in range(rows)], name="seed")
        until = Until("accepted", n_accepted=wanted, max_candidates=most, when="score == 3")
        seed >> Candidates("candidates") >> judged("judged") >> until
    result = pipeline.run(out, engine=engine, max_failed_rows=1000)
    assert_balanced(pipeline.graph(), result)
    assert_in_source_order(result["accepted"])
    return result


def test_each_row_gets_exactly_as_many_as_are_wanted(tmp_path: Path, engine: str) -> None:
    result = repeated(30, 5, 200, engine, tmp_path / "out")
    found = [(row["n"], row["candidate"]) for row in user_rows(result["accepted"])]
    assert found == [(n, c) for n in range(30) for c in accepted(n, 5, 200)]
    # Not one candidate more than it takes to find them.
    assert result.manifest["steps"]["judged"]["rows_in"] == sum(accepted(n, 5, 200)[-1] + 1 for n in range(30))
    assert failed(result) == []


def test_the_cap_is_kept_and_said(tmp_path: Path) -> None:
    result = repeated(40, 2, 6, "local", tmp_path / "out")
    wanted = {n: accepted(n, 2, 6) for n in range(40)}
    assert [(row["n"], row["candidate"]) for row in user_rows(result["accepted"])] == [
        (n, c) for n, found in wanted.items() for c in found
    ]
    short = {n: len(found) for n, found in wanted.items() if len(found) < 2}
    assert 0 < len(short) < 40
    assert {row["n"]: message for _, _, message, row in failed(result)} == {
        n: f"{count} of 2 rows were accepted of max_candidates=6 in step 'accepted'; raise max_candidates there and "
        "retry, what was asked is not asked again"
        for n, count in short.items()
    }
    assert {(name, kind) for name, kind, _, _ in failed(result)} == {("candidates", "candidates")}


def test_candidates_that_are_lost_are_made_again(tmp_path: Path) -> None:
    @step(inputs=["candidate"], outputs=["kept"])
    def unsure(row: Any) -> Any:
        if row["candidate"] % 3 == 0:
            raise ValueError("a candidate fails")
        return {"kept": row["candidate"]}

    with Pipeline("lost") as pipeline:
        seed = LoadDataFromDicts([{"n": n} for n in range(4)], name="seed")
        until = Until("accepted", n_accepted=3, max_candidates=50)
        seed >> Candidates() >> unsure("unsure") >> Filter("odd", keep="kept % 2 == 1") >> until
    result = pipeline.run(tmp_path / "out", engine="local", max_failed_rows=100)
    assert [row["kept"] for row in user_rows(result["accepted"])] == [1, 5, 7] * 4
    assert len(failed(result)) == 3 * 4
    assert_balanced(pipeline.graph(), result)


def test_what_was_asked_is_not_asked_again_when_more_are_wanted(tmp_path: Path) -> None:
    def pipeline(wanted: int, most: int) -> Pipeline:
        with Pipeline("more") as made:
            seed = LoadDataFromDicts([{"n": n} for n in range(3)], name="seed")
            asked = TextGeneration("ask", llm=llm, template="{{ n }}/{{ candidate }}", output="text")
            until = Until("accepted", n_accepted=wanted, max_candidates=most, when="text in ['1', '4']")
            seed >> Candidates("candidates") >> asked >> until
        return made

    def answer(body: dict[str, Any]) -> str:
        return str(int(body["messages"][0]["content"].partition("/")[2]) % 5)

    with serve(answer=answer) as server:
        llm = LLM("vllm-server/m", base_url=server.base_url, concurrency=4)
        short = pipeline(4, 5).run(tmp_path / "out", engine="local", max_failed_rows=10)
        assert [row["candidate"] for row in user_rows(short["accepted"])] == [1, 4] * 3
        assert len(server.requests) == 5 * 3
        whole = pipeline(4, 50).run(tmp_path / "out", engine="local")
        assert [row["candidate"] for row in user_rows(whole["accepted"])] == [1, 4, 6, 9] * 3
        assert len(server.requests) == len(server.counts()) == 10 * 3


def test_parts_with_branches_and_families_around_them(tmp_path: Path, engine: str) -> None:
    @step(inputs=["n"], outputs=["m"], scatter=True)
    def parts(row: Any) -> Any:
        return [{"m": 10 * row["n"] + part} for part in range(row["n"] % 4)]

    @step(inputs=["m", "candidate"], outputs=["side"])
    def one(row: Any) -> Any:
        return {"side": row["m"] + row["candidate"]}

    @step(inputs=["m"], outputs=["side"])
    def other(row: Any) -> Any:
        return {"side": -row["m"]}

    with Pipeline("around") as pipeline:
        seed = LoadDataFromDicts([{"n": n} for n in range(9)], name="seed")
        met = GroupColumns("met", columns=["side"], output_columns=["sides"])
        until = Until("until", n_accepted=2, max_candidates=9, when="candidate % 3 == 2")
        seed >> parts("parts") >> Candidates("c") >> [one("one"), other("other")] >> met >> until
        until >> Aggregate("each") >> Aggregate("all_parts") >> KeepColumns("kept", columns=["n", "m", "sides"])
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert user_rows(result["kept"]) == [
        {
            "n": n,
            "m": [10 * n + part for part in range(n % 4)],
            "sides": [[[10 * n + part + c, -10 * n - part] for c in (2, 5)] for part in range(n % 4)],
        }
        for n in range(9)
    ]
    assert_balanced(pipeline.graph(), result)


def test_a_repeated_part_is_loaded_at_once(tmp_path: Path) -> None:
    with Pipeline("loaded") as pipeline:
        seed = LoadDataFromDicts([{"n": n} for n in range(6)], name="seed")
        asked = TextGeneration("ask", llm=LLM("offline/one"), template="{{ candidate }}", output="text")
        until = Until("accepted", n_accepted=3, max_candidates=60, when="score == 3")
        seed >> Candidates() >> asked >> judged("judged") >> until
        until >> TextGeneration("after", llm=LLM("offline/two"), template="{{ text }}", output="end")
    groups = pipeline.get_load_stages("sequential_step_execution")[0]
    assert [set(group) & {"ask", "judged", "after"} for group in groups] == [{"ask", "judged"}, {"after"}]
    result = pipeline.run(tmp_path / "out", engine="local", load_groups="sequential_step_execution")
    found = [(row["n"], row["candidate"]) for row in user_rows(result["after"])]
    assert found == [(n, c) for n in range(6) for c in accepted(n, 3, 60)]


def unsound(*steps: Any) -> str:
    with Pipeline("unsound") as pipeline:
        last: Any = LoadDataFromDicts([{"n": 1}], name="seed")
        for one in steps:
            last = last >> one()
    with pytest.raises(SpecError) as error:
        pipeline.graph()
    return str(error.value)


def test_what_has_no_beginning_or_end_is_refused() -> None:
    def until() -> Until:
        return Until("until", n_accepted=2, max_candidates=4)

    def begin() -> Candidates:
        return Candidates("begin")

    assert "step 'until': ends what `Candidates` begins, but none is open here" in unsound(until)
    assert "step 'begin': is ended by nothing; put one Until(…) behind it" in unsound(begin)
    assert "step 'begin': is ended by 'until' and 'again'" in unsound(
        begin, until, lambda: Until("again", n_accepted=2, max_candidates=4)
    )
    assert "fewer candidates than are wanted; raise max_candidates" in unsound(
        begin, lambda: Until("until", n_accepted=5, max_candidates=4)
    )
    assert "ends what `Candidates` begins" in unsound(begin, Aggregate, until)
    assert "repeats none; put broadcast on the step behind it" in unsound(lambda: begin().broadcast(2), until)


def test_a_side_branch_may_not_wait_for_a_family_that_grows() -> None:
    with Pipeline("grows") as pipeline:
        begin = LoadDataFromDicts([{"n": 1}], name="seed") >> Candidates("begin")
        begin >> Until("until", n_accepted=1, max_candidates=2)
        begin >> Aggregate("side")
    with pytest.raises(SpecError, match=r"step 'side': brings together what 'begin' makes more of; put it behind"):
        pipeline.graph()
