"""Inputs that are large in an odd way are refused with their place, soon and in little memory."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe.errors import InputError
from raypipe.pipeline import Pipeline
from raypipe.steps import KeepColumns, LoadDataFromFiles, make_generator_step
from raypipe.steps.files import json_files

WIDE = 10_001


@pytest.mark.parametrize("end", ["jsonl", "json", "csv"])
def test_a_file_of_too_many_columns(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"wide.{end}"
    row = {f"c{number}": 1 for number in range(WIDE)}
    lines = {"jsonl": json.dumps(row), "json": json.dumps([row]), "csv": ",".join(row) + "\n" + ",".join(["1"] * WIDE)}
    path.write_text(lines[end])
    with pytest.raises(InputError, match=r"wide.*10,001 columns, more than the 10,000"):
        run(lambda: LoadDataFromFiles(path=str(path)), tmp_path)


def test_a_table_of_too_many_columns(tmp_path: Path) -> None:
    table = pa.table({f"c{number}": [1] for number in range(WIDE)})
    with pytest.raises(InputError, match=r"10,001 columns, more than the 10,000"):
        run(lambda: make_generator_step(table), tmp_path)


def test_a_line_without_an_end(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl.gz"
    with gzip.open(path, "wb") as file:
        file.write(b'{"a": 1}\n{"a": "' + b"x" * (1 << 22) + b'"}\n')
    with pytest.raises(InputError, match="line 2 is larger than 1 MiB"):
        list(json_files.tables(str(path), 10, most_bytes=1 << 20))


def run(source: Callable[[], Any], folder: Path) -> None:
    with Pipeline("large") as pipeline:
        source() >> KeepColumns(columns=["c0"])
    pipeline.run(folder / "out", engine="local")
