"""A row's identity is its content, as Arrow has it: no library, file, unit of time or neighbour counts."""

from __future__ import annotations

import subprocess
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.execution.source import read_source
from raypipe.row import ROW_ID
from raypipe.steps import LoadDataFromDicts, LoadDataFromFiles


def ids(*paths: Path, **fields: Any) -> list[bytes]:
    source = LoadDataFromFiles(path=[str(path) for path in paths], **fields)
    return [one for table in read_source(source) for one in table.column(ROW_ID).to_pylist()]


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def stored(path: Path, values: list[Any], kind: pa.DataType | None = None) -> Path:
    pq.write_table(pa.table({"a": pa.array(values, kind)}), path)
    return path


def test_a_file_may_be_renamed_and_stand_beside_others(tmp_path: Path) -> None:
    before = ids(write(tmp_path / "one" / "a.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 2}\n'))
    write(tmp_path / "two" / "z.jsonl", '{"a": 1}\n{"a": 2}\n{"a": 2}\n')
    more = write(tmp_path / "two" / "b.jsonl", '{"a": 3}\n{"a": 1}\n')
    assert ids(tmp_path / "two" / "z.jsonl") == before
    after = ids(tmp_path / "two")
    assert set(before) < set(after) and len(set(after)) == 5
    assert set(ids(more)) < set(after)


def test_equal_rows_are_told_apart_over_all_files(tmp_path: Path) -> None:
    for name in "abc":
        write(tmp_path / "several" / f"{name}.jsonl", '{"a": 1}\n' * 2)
    together = write(tmp_path / "together.jsonl", '{"a": 1}\n' * 6)
    assert set(ids(tmp_path / "several")) == set(ids(together))


@pytest.mark.parametrize("odd", ["x", "1.5", "", "007", "1e3", "true", "99999999999999999999"])
def test_another_cell_of_a_column_changes_nothing(odd: str, tmp_path: Path) -> None:
    """What a column of a CSV file is taken for depends on all of it."""
    rows = "1,7,true\n2,1.50,False\n3,,TRUE\n"
    before = ids(write(tmp_path / "a.csv", f"id,n,flag\n{rows}"))
    for column in range(3):
        cells = ["4", "5", "true"]
        cells[column] = odd
        assert set(before) < set(ids(write(tmp_path / "b.csv", f"id,n,flag\n{rows}{','.join(cells)}\n"))), column


def test_formats_agree(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.jsonl", '{"id": 1, "x": 0.5, "t": "a"}\n{"id": 2, "x": 2, "t": "b"}\n')
    cells = write(tmp_path / "a.csv", "id,x,t\n1,0.5,a\n2,2,b\n")
    pq.write_table(
        pa.table({"id": pa.array([1, 2], pa.int16()), "x": [0.5, 2.0], "t": ["a", "b"]}), tmp_path / "a.parquet"
    )
    rows = LoadDataFromDicts([{"id": 1, "x": 0.5, "t": "a"}, {"id": 2, "x": 2, "t": "b"}])
    given = [one for table in read_source(rows) for one in table.column(ROW_ID).to_pylist()]
    assert ids(lines) == ids(cells) == ids(tmp_path / "a.parquet") == given


MOMENT = datetime(2026, 1, 2, 3, 4, 5)


@pytest.mark.parametrize(
    ("values", "kinds"),
    [
        ([MOMENT], [pa.timestamp("ms"), pa.timestamp("us"), pa.timestamp("ns")]),
        ([MOMENT], [pa.timestamp("ms", "UTC"), pa.timestamp("ns", "Europe/Berlin")]),
        ([[MOMENT]], [pa.list_(pa.timestamp("ms")), pa.large_list(pa.timestamp("ns"))]),
        ([{"t": MOMENT}], [pa.struct([("t", pa.timestamp("us"))]), pa.struct([("t", pa.timestamp("ns"))])]),
        ([MOMENT.date()], [pa.date32()]),
        ([MOMENT.time()], [pa.time32("ms"), pa.time64("us"), pa.time64("ns")]),
        ([Decimal("1.50")], [pa.decimal128(10, 2), pa.decimal256(70, 20)]),
        (["text"], [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]),
        ([b"bytes"], [pa.binary(), pa.large_binary(), pa.binary(5)]),
        ([3], [pa.int8(), pa.uint64(), pa.float64(), pa.float32()]),
    ],
)
def test_how_a_value_is_stored_does_not_count(values: list[Any], kinds: list[pa.DataType], tmp_path: Path) -> None:
    found = {tuple(ids(stored(tmp_path / "a.parquet", values, kind))) for kind in kinds}
    assert len(found) == 1


def test_what_differs_is_told_apart(tmp_path: Path) -> None:
    arrays = [
        pa.array([MOMENT], pa.timestamp("us")),
        pa.array([MOMENT], pa.timestamp("us", "UTC")),
        pa.array([MOMENT.date()]),
        pa.array([1767323045000000]),
        pa.array([Decimal("1.5")]),
        pa.array([Decimal("15")]),
        pa.array([Decimal("12345678901234567890123456789012345678")]),
        pa.array([Decimal("12345678901234567890123456789012345679")]),
        pa.array(["1.5"]),
        pa.array([1.5]),
        pa.array([b"1.5"]),
        pa.array([True]),
        pa.array([[1.5]]),
        pa.array([{"a": 1.5}]),
        pa.array([1767323045000000], pa.timestamp("ns")),
        pa.array([1], pa.timestamp("ns")),
        pa.array([2], pa.timestamp("ns")),
        pa.array([1], pa.duration("ns")),
    ]
    found: list[bytes] = []
    for array in arrays:
        pq.write_table(pa.table({"a": array}), tmp_path / "a.parquet")
        found += ids(tmp_path / "a.parquet")
    assert len(set(found)) == len(arrays)


WITHOUT = """
import sys
from pathlib import Path
if sys.argv[2] == "without":
    class No:
        def find_spec(self, name, path=None, target=None):
            if name.partition(".")[0] == "pandas": raise ImportError("no pandas")
    sys.meta_path.insert(0, No())
else:
    import pandas
from tests.execution.test_row_identity import ids
print(b"".join(ids(Path(sys.argv[1]))).hex())
"""


def test_pandas_does_not_count(tmp_path: Path) -> None:
    moments = [1, 1_000, 1_767_323_045_123_456_789]
    nested = [[value] for value in moments]
    table = {"a": pa.array(moments, pa.timestamp("ns")), "b": pa.array(nested, pa.list_(pa.duration("ns")))}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    found = [
        subprocess.run(
            [sys.executable, "-c", WITHOUT, str(tmp_path / "a.parquet"), how],
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
            cwd=Path(__file__).parents[2],
        ).stdout
        for how in ("with", "without")
    ]
    assert found[0] == found[1] and len(set(ids(tmp_path / "a.parquet"))) == 3
