"""The memory of a run is bounded by its settings, not by the bytes of its rows; each run has a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def measured(kind: str, mib: int, engine: str = "local", form: str = "jsonl") -> dict[str, Any]:
    options = ["--once", "--kind", kind, "--mib", str(mib), "--engine", engine, "--form", form]
    command = [sys.executable, "-m", "benchmarks.memory", *options]
    told = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, timeout=1200).stdout
    return json.loads(told.splitlines()[-1])


def test_pieces_that_keep_their_document_take_the_memory_of_the_document() -> None:
    found = measured("pieces", 780)
    assert found["rows"] == 800
    assert found["driver_mib"] < 500


@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_large_rows_are_not_held_together(form: str) -> None:
    found = measured("rows", 500, form=form)
    assert found["rows"] == 262
    assert found["driver_mib"] < 600


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("form", ["jsonl", "parquet"])
def test_two_thousand_rows_of_two_megabytes(form: str) -> None:
    found = measured("rows", 3815, form=form)
    assert found["rows"] == 2000
    assert found["driver_mib"] < 1024


@pytest.mark.full
@pytest.mark.timeout(1500)
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_three_documents_of_eight_hundred_pieces(engine: str) -> None:
    found = measured("pieces", 2289, engine)
    assert found["rows"] == 2400
    assert max(found["driver_mib"], found["other_mib"]) < 1024
