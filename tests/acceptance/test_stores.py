"""A run into a store leaves what it leaves in a folder, whatever ends the one before it."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.dataset as ds
import pytest

from raypipe.calls.remote import folder_here
from raypipe.errors import SpecError, StoppedError
from raypipe.results import Result
from raypipe.storage.paths import RemotePath, parse_path
from tests.acceptance.chain import CONCURRENCY, answer, asked, chain, topics
from tests.acceptance.processes import ROOT, killed, start, table
from tests.acceptance.reporting import echo, reporting
from tests.books import Row, assert_balanced, failed, user_rows
from tests.loopback import serve

MANY = 150


def remote(address: str) -> RemotePath:
    place = parse_path(address)
    assert isinstance(place, RemotePath)
    return place


def said(result: Result) -> dict[str, Any]:
    """What a manifest counts; the rest is about files and times."""
    counted = {leaf: entry["rows"] for leaf, entry in result.manifest["leaves"].items()}
    return {"steps": result.manifest["steps"], "leaves": counted, "failures": result.manifest["failures"]["rows"]}


def test_a_store_holds_what_a_folder_holds(bucket: str, tmp_path: Path) -> None:
    with serve(answer=echo) as server:
        pipeline = reporting(server.base_url, 40)
        here = pipeline.run(tmp_path / "out", engine="local", load_groups="sequential_step_execution")
        there = pipeline.run(f"{bucket}/out", engine="local", load_groups="sequential_step_execution")
    assert_balanced(pipeline.graph(), there)
    read = Result(f"{bucket}/out")
    assert read["default"].to_arrow().equals(here["default"].to_arrow())
    assert failed(read) == failed(here) != []
    assert said(read) == said(there) == said(here)
    assert [one["n"] for one in read["default"].to_datasets().add_column("n", list(range(36)))] == list(range(36))
    [[report]] = [list(one.values()) for one in read.artifacts.values()]
    assert [(file.name, file.read_text()) for file in report.files] == [("rows.txt", "36")]
    place = remote(f"{bucket}/out")
    assert not list((place / ".raypipe/work").rglob("*"))
    assert not list((place / "calls").glob("segment-*"))
    assert not (place / ".raypipe/lock").exists()
    assert list(folder_here(place / "calls").iterdir()) == []
    assert not [file for file in place.rglob("*") if b"of-the-tests" in file.read_bytes()], "a key was written down"


def test_other_readers_find_the_rows(bucket: str) -> None:
    with serve(answer=echo) as server:
        result = reporting(server.base_url, 20).run(f"{bucket}/out", engine="local")
    leaf = remote(f"{bucket}/out/data/again")
    rows = result["again"].to_arrow()
    assert ds.dataset(leaf.path, filesystem=leaf.store, format="parquet").to_table().equals(rows)
    assert pd.read_parquet(leaf.path, filesystem=leaf.store).equals(rows.to_pandas())


def test_a_rerun_takes_the_place_of_the_run_before(bucket: str) -> None:
    place = remote(f"{bucket}/out")
    with serve(answer=echo) as server:
        reporting(server.base_url, 20).run(str(place), engine="local")
        result = reporting(server.base_url, 30).run(str(place), engine="local")
        assert len(server.requests) == 20 + 18 + 10 + 9
        files = [*(place / "data").rglob("*"), *(place / "failures").rglob("*"), *(place / "artifacts").rglob("*")]
        assert len(files) == 1 + 1 + 2
        assert len(user_rows(result["again"])) == 27
        assert result.artifacts["report"]["report"].files[0].read_text() == "27"
        reporting(server.base_url, 30).run(str(place), engine="local", fresh=True)
        assert len(server.requests) == 2 * 57


def test_rows_that_failed_are_retried_and_merged(bucket: str) -> None:
    with serve(answer=answer) as server:
        chain(server.base_url, topics(20), parse=breaks).run(f"{bucket}/out", engine="local", max_failed_rows=20)
        before = Result(f"{bucket}/out")
        assert before.failed_rows > 0
        seen = len(server.requests)
        after = chain(server.base_url, topics(20)).retry(f"{bucket}/out", engine="local")
        assert len(server.requests) == seen
        whole = chain(server.base_url, topics(20)).run(f"{bucket}/other", engine="local")
    assert after.failed_rows == 0
    assert table(after) == table(whole)


def breaks(text: str) -> str:
    """A parser that some rows do not pass."""
    if text < "8":
        raise ValueError("small")
    return text


def test_a_budget_stops_and_a_higher_one_goes_on(bucket: str) -> None:
    with serve(answer=answer) as server:
        with pytest.raises(StoppedError, match="max_calls=20 is reached"):
            chain(server.base_url, topics(20)).run(f"{bucket}/out", engine="local", max_calls=20)
        assert len(server.requests) == 20
        result = chain(server.base_url, topics(20)).run(f"{bucket}/out", engine="local", max_calls=60)
        assert len(server.requests) == 60
    assert len(result["third"]) == 20


def test_a_call_log_elsewhere_serves_folders_here(bucket: str, tmp_path: Path) -> None:
    with serve(answer=answer) as server:
        for name in ("one", "two"):
            chain(server.base_url, topics(10)).run(tmp_path / name, calls=f"{bucket}/out/calls", engine="local")
        assert len(server.requests) == 30
        forecast = chain(server.base_url, topics(11)).forecast(tmp_path / "two", f"{bucket}/out/calls")
    assert forecast.steps["third"].reused == 10
    assert not (tmp_path / "one/calls").exists()


def test_a_run_in_a_store_is_saved_and_split_here(bucket: str, tmp_path: Path) -> None:
    with serve(answer=echo) as server:
        result = reporting(server.base_url, 20).run(f"{bucket}/out", engine="local")
    result.save_to_disk(tmp_path / "saved")
    saved = Result.load_from_disk(tmp_path / "saved")
    assert saved["again"].to_arrow().to_pylist() == result["again"].to_arrow().to_pylist()
    assert saved.artifacts["report"]["report"].files[0].read_text() == "18"
    split = result.train_test_split(0.5)
    assert (len(split["again"]["train"]), len(split["again"]["test"])) == (9, 9)


def test_files_of_a_run_that_was_not_committed_are_removed(bucket: str) -> None:
    stray = remote(f"{bucket}/out/data/third/part-stray-00000.parquet")
    with serve(answer=answer) as server:
        chain(server.base_url, topics(5)).run(f"{bucket}/out", engine="local")
        stray.write_bytes(b"half")
        assert len(Result(f"{bucket}/out")["third"]) == 5
        chain(server.base_url, topics(5)).run(f"{bucket}/out", engine="local")
    assert not stray.exists()


def test_a_bucket_folder_with_something_else_is_left_alone(bucket: str) -> None:
    theirs = remote(f"{bucket}/out/notes.txt")
    theirs.write_bytes(b"precious")
    with serve(answer=answer) as server, pytest.raises(Exception, match="holds no raypipe run; it is left as it is"):
        chain(server.base_url, topics(5)).run(f"{bucket}/out", engine="local")
    assert theirs.read_bytes() == b"precious"
    with pytest.raises(SpecError, match="is an address of an unknown kind"):
        chain("http://nowhere", topics(5)).run("ftp://there/out", engine="local")


# Killed.


def undisturbed(url: str, tmp_path: Path) -> list[Row]:
    return table(chain(url, topics(MANY)).run(tmp_path / "undisturbed", engine="local"))


def gone_on_with(engine: str, bucket: str, tmp_path: Path, seed: int, is_elsewhere: bool) -> None:
    """`is_elsewhere`: the second run is on a machine that has nothing of the first one's disk."""
    out = f"{bucket}/out"
    with serve(answer=answer, latency_s=0.04) as server:
        killed(server, out, engine, MANY, random.Random(seed).randrange(20, 3 * MANY - 50))
        if is_elsewhere:
            shutil.rmtree(folder_here(remote(f"{out}/calls")))
        again = start(server, out, engine, MANY, folder=tmp_path)
        _, complaints = again.communicate(timeout=200)
        assert (again.returncode, complaints) == (0, b"")
        counts = Counter(asked(server))
        assert table(Result(out)) == undisturbed(server.base_url, tmp_path)
    assert len(counts) == 3 * MANY
    repeated = counts.total() - len(counts)
    assert repeated <= CONCURRENCY if not is_elsewhere else repeated < 3 * MANY


@pytest.mark.parametrize("is_elsewhere", [False, True])
def test_killed_and_gone_on_with_in_another_folder(bucket: str, tmp_path: Path, is_elsewhere: bool) -> None:
    gone_on_with("local", bucket, tmp_path, 1, is_elsewhere)


@pytest.mark.ray
def test_killed_and_gone_on_with_on_ray(bucket: str, tmp_path: Path) -> None:
    gone_on_with("ray", bucket, tmp_path, 2, is_elsewhere=False)


@pytest.mark.ray
@pytest.mark.full
def test_nodes_hand_over_rows_through_the_store_alone(bucket: str, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    with serve(answer=echo, latency_s=0.02) as server:
        command = [sys.executable, "-m", "tests.acceptance.reporting", "--url", server.base_url, "--rows", str(MANY)]
        command += ["--out", f"{bucket}/out", "--disk", str(disk)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=200)
        assert ended.returncode == 0, ended.stderr[-2000:]
        sent = Counter(asked(server))
        here = reporting(server.base_url, MANY).run(tmp_path / "here", engine="local")
    there = Result(f"{bucket}/out")
    assert there["default"].to_arrow().equals(here["default"].to_arrow())
    assert failed(there) == failed(here)
    assert set(sent.values()) == {1}
    assert list(disk.rglob("segment-*.calls")), "no call was sent from the other node"


@pytest.mark.full
@pytest.mark.parametrize("seed", range(3, 23))
def test_killed_at_many_moments(bucket: str, tmp_path: Path, seed: int) -> None:
    gone_on_with("local", bucket, tmp_path, seed, is_elsewhere=bool(seed % 2))
