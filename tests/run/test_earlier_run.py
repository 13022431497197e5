"""What an earlier run left is replaced by less, or by another pipeline's rows, only where that is wanted."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InputError, OutputError, RaypipeError, RowError, RowsKeptError, StoppedError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import Filter, LoadDataFromDicts, step
from tests.loopback import Loopback
from tests.pipelines import asking, chain, one, seed


def failing(count: int, below: int, name: str = "numbers") -> Pipeline:
    """Rows of which those below a number fail."""

    @step(inputs=["n"], outputs=["m"])
    def checked(row: Values) -> dict[str, Any]:
        if row["n"] < below:
            raise RowError(f"{row['n']} is too small")
        return {"m": row["n"]}

    with Pipeline(name) as pipeline:
        source = LoadDataFromDicts([{"n": n} for n in range(count)], name="seed")
        _ = source >> Filter("kept", keep="n >= 0") >> checked("checked")
    return pipeline


def numbers(out: Path) -> list[int]:
    return Result(out)["default"].to_arrow()["n"].to_pylist()


def run(pipeline: Pipeline, out: Path, **options: Any) -> Result:
    return pipeline.run(out, engine="local", max_failure_rate=None, **options)


@pytest.mark.parametrize("below", [20, 7], ids=["all", "some"])
def test_a_run_whose_rows_fail_takes_the_place_of_no_more_rows(tmp_path: Path, below: int) -> None:
    out = tmp_path / "out"
    run(failing(20, 0), out)
    before = (out / "manifest.json").read_bytes()
    with pytest.raises(RowsKeptError) as caught:
        run(failing(20, below), out)
    said = str(caught.value)
    assert f"{below} rows failed (the first at step 'checked': 0 is too small): {20 - below} rows were finished" in said
    assert f"where {out} has 20, which are left as they are" in said
    assert "replace them all the same with --allow-fewer (in Python allow_fewer=True)" in said
    assert caught.value.exit_code == 3
    assert numbers(out) == list(range(20))
    assert (out / "manifest.json").read_bytes() == before
    result = run(failing(20, below), out, allow_fewer=True)
    assert (len(result["default"]), result.failed_rows) == (20 - below, below)


def test_a_run_that_may_lose_rows_takes_the_place_of_more_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run(failing(20, 0), tmp_path / "out")
    with caplog.at_level(logging.WARNING, "raypipe"):
        run(failing(20, 5), tmp_path / "out", max_failed_rows=5)
    assert f"15 rows were finished where {tmp_path / 'out'} has 20 before" in caplog.text
    assert numbers(tmp_path / "out") == list(range(5, 20))


def test_a_shorter_input_is_run_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(failing(20, 0), tmp_path / "out")
    with caplog.at_level(logging.WARNING, "raypipe"):
        run(failing(3, 0), tmp_path / "out")
    assert "the dataset is replaced by a shorter one" in caplog.text
    assert numbers(tmp_path / "out") == [0, 1, 2]
    caplog.clear()
    run(failing(4, 0), tmp_path / "out")
    assert not caplog.text


def nothing_kept() -> Pipeline:
    with Pipeline("numbers") as pipeline:
        source = LoadDataFromDicts([{"n": n} for n in range(20)], name="seed")
        _ = source >> Filter("kept", keep="n < 0") >> one("checked")
    return pipeline


def test_nothing_takes_the_place_of_rows_only_when_told_to(tmp_path: Path) -> None:
    run(failing(20, 0), tmp_path / "out")
    with pytest.raises(InputError, match=r"no row failed, and yet 0 rows were finished where .* has 20, which are"):
        run(nothing_kept(), tmp_path / "out")
    assert numbers(tmp_path / "out") == list(range(20))
    assert len(run(nothing_kept(), tmp_path / "out", allow_fewer=True)["default"]) == 0


def test_a_retry_that_loses_more_changes_nothing(tmp_path: Path) -> None:
    with Pipeline("family") as pipeline:
        source = LoadDataFromDicts([{"n": [1, 2, 3]}, {"n": [4]}], name="seed")
        _ = source >> spread("spread").scatter() >> picky("picky")
    out = tmp_path / "out"
    run(pipeline, out)
    assert len(Result(out)["default"]) == 3

    with Pipeline("family") as worse:
        source = LoadDataFromDicts([{"n": [1, 2, 3]}, {"n": [4]}], name="seed")
        _ = source >> spread("spread").scatter() >> hopeless("picky")
    with pytest.raises(RowsKeptError, match="3 rows failed"):
        worse.retry(out, engine="local")
    assert len(Result(out)["default"]) == 3
    assert Result(out).failed_rows == 1


@step(inputs=["n"], outputs=["one"])
def spread(row: Values) -> list[dict[str, Any]]:
    return [{"one": value} for value in row["n"]]


@step(inputs=["one"], outputs=["m"])
def picky(row: Values) -> dict[str, Any]:
    if row["one"] == 2:
        raise RowError("two")
    return {"m": row["one"]}


@step(inputs=["one"], outputs=["m"])
def hopeless(row: Values) -> dict[str, Any]:
    raise RowError("no")


def test_a_run_that_was_stopped_takes_the_place_of_no_more_rows(tmp_path: Path, server: Loopback) -> None:
    def pipeline(prompt: str) -> Pipeline:
        return chain(seed, lambda: asking(server, "asked", prompt))

    run(pipeline("{{ n }}"), tmp_path / "out")
    with pytest.raises(StoppedError, match="the rows of an earlier run are unchanged"):
        run(pipeline("another {{ n }}"), tmp_path / "out", max_calls=13)
    assert len(Result(tmp_path / "out")["asked"]) == 10


def other_name(_: Loopback) -> Pipeline:
    return failing(5, 0, name="others")


def other_steps(server: Loopback) -> Pipeline:
    with Pipeline("numbers") as pipeline:
        _ = LoadDataFromDicts([{"n": 1}], name="seed") >> asking(server, "asked", "{{ n }}")
    return pipeline


@pytest.mark.parametrize("other", [other_name, other_steps])
def test_the_folder_of_another_pipeline_is_refused_before_a_call(
    tmp_path: Path, server: Loopback, other: Callable[[Loopback], Pipeline]
) -> None:
    run(failing(20, 0), tmp_path / "out")
    said = (
        r"holds rows of the pipeline 'numbers' \(20 of 'checked'\), and this is .* name another folder with --out, or"
    )
    for act in (run, lambda pipeline, out: pipeline.retry(out, engine="local")):
        with pytest.raises(OutputError, match=said):
            act(other(server), tmp_path / "out")
    assert not server.requests
    assert numbers(tmp_path / "out") == list(range(20))
    try:
        result = run(other(server), tmp_path / "out", fresh=True, allow_fewer=True)
    except RaypipeError as error:
        pytest.fail(str(error))
    assert len(result["default"]) < 20


def test_an_edited_pipeline_keeps_its_folder(tmp_path: Path) -> None:
    run(chain(seed, one), tmp_path / "out")
    run(chain(seed, one, lambda: Filter("behind", keep="n >= 0")), tmp_path / "out")
    run(chain(seed, one), tmp_path / "out")
    assert numbers(tmp_path / "out") == list(range(10))
