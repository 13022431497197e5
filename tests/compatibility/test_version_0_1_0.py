"""Run folders and call logs of version 0.1.0 are read, resumed and retried, and no answered call is sent again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from raypipe.errors import StoppedError
from raypipe.results import Result
from raypipe.run.spending_history import BEFORE
from raypipe.run.spending_history import COMPLETE as COMPLETE_RUN
from tests.compatibility.cases import CASES, RUNS, answer
from tests.loopback import serve

ROOT = Path(__file__).parents[2]
IN_A_PROCESS = {"nanoseconds", "nanoseconds_pandas"}
"""Identities of 0.1.0 depend on whether pandas is there: these run where it is as it was."""
COMPLETE = sorted(set(CASES) - {"failures", "killed", "store"} - IN_A_PROCESS)
ANSWERED_BEFORE_THE_KILL = 6
CALLS_OF_FLAT = 18


@pytest.fixture
def kept(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of a kept run folder."""
    return Path(shutil.copytree(RUNS / request.param, tmp_path / request.param))


def rows_of(result: Result) -> dict[str, list[dict[str, Any]]]:
    return {leaf: result[leaf].to_arrow().to_pylist() for leaf in result}


def same(found: dict[str, list[dict[str, Any]]], expected: dict[str, list[dict[str, Any]]]) -> bool:
    return repr(found) == repr(expected)  # NaN is like NaN


@pytest.mark.parametrize("kept", [*COMPLETE, *sorted(IN_A_PROCESS), "failures"], indirect=True)
def test_a_kept_folder_is_read(kept: Path) -> None:
    result = Result(kept)
    assert all(rows_of(result).values())
    assert result.manifest["raypipe"] == "0.1.0"
    assert (result.failed_rows > 0) == (kept.name == "failures")


@pytest.mark.parametrize("kept", COMPLETE, indirect=True)
def test_a_kept_folder_is_run_again_and_nothing_is_sent(kept: Path, engine: Any) -> None:
    before = rows_of(Result(kept))
    with serve(answer=answer) as server:
        result = CASES[kept.name](server.base_url).run(kept, engine=engine)
        assert server.requests == []
    assert same(rows_of(result), before)
    assert result.exit_code == 0


@pytest.mark.parametrize("kept", sorted(IN_A_PROCESS), indirect=True)
def test_timestamps_of_nanoseconds_are_found_as_they_were_read(kept: Path) -> None:
    before = rows_of(Result(kept))
    flags = [] if kept.name.endswith("_pandas") else ["--without-pandas"]
    with serve(answer=answer) as server:
        command = [sys.executable, "-m", "tests.compatibility.record", kept.name, server.base_url, str(kept), *flags]
        subprocess.run(command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=120)
        assert server.requests == []
    assert same(rows_of(Result(kept)), before)


@pytest.mark.parametrize("kept", ["failures"], indirect=True)
def test_failures_are_retried_and_only_they_are_sent(kept: Path, engine: Any) -> None:
    before = Result(kept)
    failed = before.failures.to_arrow().to_pylist()
    refused = sum(row["step"] == "parts" for row in failed)
    with serve(answer=answer) as server:
        result = CASES["failures"](server.base_url).retry(kept, engine=engine)
        # A row that failed in the first step asks there, and for each of its two halves in the second.
        assert len(server.requests) == len(failed) + 2 * refused
    assert (result.failed_rows, result["judge"].to_arrow().num_rows) == (0, 24)
    there = {row["_row_id"]: row for row in result["judge"].to_arrow().to_pylist()}
    assert all(there[row["_row_id"]] == row for row in before["judge"].to_arrow().to_pylist())


@pytest.mark.parametrize("kept", ["killed"], indirect=True)
def test_a_killed_run_goes_on_from_its_segments(kept: Path, engine: Any) -> None:
    with serve(answer=answer) as server:
        result = CASES["killed"](server.base_url).run(kept, engine=engine)
        assert len(server.requests) == CALLS_OF_FLAT - ANSWERED_BEFORE_THE_KILL
    assert same(rows_of(result), rows_of(Result(RUNS / "flat")))


@pytest.mark.parametrize("kept", ["flat"], indirect=True)
def test_what_runs_of_0_1_0_spent_is_the_first_leg(kept: Path) -> None:
    before = Result(kept).manifest
    with serve(answer=answer) as server:
        result = CASES["flat"](server.base_url).run(kept, engine="local")
    first, second = result.manifest["legs"]
    assert (first["ended"], second["ended"]) == (BEFORE, COMPLETE_RUN)
    assert (first["calls_sent"], second["calls_sent"]) == (CALLS_OF_FLAT, 0)
    told = ("calls_sent", "input_tokens", "output_tokens")
    for name, figures in before["steps"].items():
        assert [result.manifest["steps"][name][what] for what in told] == [figures[what] for what in told]


@pytest.mark.parametrize("kept", ["killed"], indirect=True)
def test_what_runs_of_0_1_0_spent_counts_under_a_cap(kept: Path) -> None:
    with serve(answer=answer) as server:
        with pytest.raises(StoppedError, match="max_calls=10 is reached"):
            CASES["killed"](server.base_url).run(kept, engine="local", max_calls=10)
        assert len(server.requests) == 10 - ANSWERED_BEFORE_THE_KILL


def test_a_folder_in_a_store_is_run_again_and_nothing_is_sent(bucket: str, endpoint: str) -> None:
    options = {"access_key": "key-of-the-tests", "secret_key": "secret-of-the-tests", "region": "us-east-1"}
    store = fs.S3FileSystem(endpoint_override=endpoint, **options)
    there = f"{bucket.removeprefix('s3://')}/store"
    fs.copy_files(str(RUNS / "store"), there, source_filesystem=fs.LocalFileSystem(), destination_filesystem=store)
    before = rows_of(Result(f"s3://{there}"))
    with serve(answer=answer) as server:
        result = CASES["store"](server.base_url).run(f"s3://{there}", engine="local")
        assert server.requests == []
    assert same(rows_of(result), before)
