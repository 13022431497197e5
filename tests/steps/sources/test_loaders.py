"""Reading the rows that a pipeline starts from."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.contracts.step import Unit
from raypipe.errors import InputError, SpecError
from raypipe.row import OUTPUT_LINEAGE
from raypipe.steps import LoadDataFromDicts, LoadDataFromFiles
from raypipe.steps.sources.loaders import BATCH_ROWS, FileSource


def rows_of(source):
    return [row for unit in source.units() for table in source.read(unit) for row in table.to_pylist()]


def write(path: Path, text: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = text.encode() if isinstance(text, str) else text
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def lines(*rows):
    return "".join(json.dumps(row) + "\n" for row in rows)


# From a list.


def test_rows_from_a_list_positional_or_by_name():
    data = [{"a": 1}, {"a": 2}]
    assert rows_of(LoadDataFromDicts(data)) == data
    seed = LoadDataFromDicts(name="seed", data=data)
    assert seed.name == "seed"
    assert seed.units() == [Unit("")]
    assert seed.columns() == seed.columns_after(()) == ("a",)
    assert rows_of(pickle.loads(pickle.dumps(seed))) == data


def test_ragged_rows_have_the_union_of_columns():
    source = LoadDataFromDicts([{"a": 1}, {"b": "x"}, {}])
    assert source.columns() == ("a", "b")
    assert rows_of(source) == [{"a": 1, "b": None}, {"a": None, "b": "x"}, {"a": None, "b": None}]


def test_no_rows_and_rows_without_columns():
    assert rows_of(LoadDataFromDicts([])) == []
    assert rows_of(LoadDataFromDicts([{}, {}])) == [{}, {}]


def test_long_lists_come_in_batches():
    source = LoadDataFromDicts([{"n": n} for n in range(BATCH_ROWS + 5)])
    assert [table.num_rows for table in source.read(Unit(""))] == [BATCH_ROWS, 5]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([{"a": 1}, "b"], "row 2 is a str, not a mapping"),
        ({"a": 1}, r"not one mapping; write \[\{…\}, …\]"),
        ("text", "not a str"),
        (5, "not a int"),
        ([{1: 2}], "row 1 has the column 1; column names are text"),
        ([{"_row_id2": 1}, {"_path": 1}], "row 2 has the column '_path', a name kept for lineage"),
    ],
)
def test_what_is_no_list_of_mappings_is_refused(data, said):
    with pytest.raises(SpecError, match=said) as caught:
        LoadDataFromDicts(data)
    assert len(caught.value.violations) == 1


def test_data_is_required():
    with pytest.raises(SpecError, match="option 'data' is required"):
        LoadDataFromDicts()


def test_rows_of_an_earlier_run_lose_their_lineage():
    row = dict.fromkeys(OUTPUT_LINEAGE, "x")
    assert rows_of(LoadDataFromDicts([{"a": 1, **row}])) == [{"a": 1}]


@pytest.mark.parametrize(
    ("values", "number", "said"),
    [
        ([1, 2, "three", 4], 3, r"'three' \(str\) does not fit the values before it \(int64\)"),
        (["a", None, 1], 3, r"1 \(int\) does not fit the values before it \(string\)"),
        ([None, object()], 2, "cannot be stored"),
        ([2**80], 1, "cannot be stored"),
        ([[1], ["x"]], 2, "does not fit"),
        (["\ud800"], 1, "cannot be stored"),
    ],
)
def test_values_without_a_common_type_are_named(values, number, said):
    with pytest.raises(InputError, match=said) as caught:
        rows_of(LoadDataFromDicts([{"a": value} for value in values]))
    assert f"row {number}, column 'a'" in str(caught.value)
    assert "write all values of a column as one type" in str(caught.value)


# From files of each kind.

ROWS = [{"id": 1, "text": "a\nb"}, {"id": 2, "text": 'say "x", ok'}]
CSV = 'id,text\n1,"a\nb"\n2,"say ""x"", ok"\n'
TEXTS = {
    "x.jsonl": lines(*ROWS),
    "x.ndjson": "\ufeff" + lines(*ROWS).replace("\n", "\n\n"),
    "x.json": json.dumps(ROWS, indent=2),
    "lines.json": lines(*ROWS).strip(),
    "x.csv": CSV,
    "bom.csv": "\ufeff" + CSV,
    "x.tsv": CSV.replace("id,text", "id\ttext").replace('1,"', '1\t"').replace('2,"', '2\t"'),
    "x.JSONL": lines(*ROWS),
}


@pytest.mark.parametrize("name", [*TEXTS, *(f"{name}.gz" for name in TEXTS)])
def test_text_files(tmp_path, name):
    path = write(tmp_path / name, TEXTS[name.removesuffix(".gz")])
    source = LoadDataFromFiles(str(path))
    assert rows_of(source) == ROWS
    assert source.columns() == ("id", "text")
    assert source.units() == [Unit(name, str(path))]


def test_parquet_comes_row_group_by_row_group(tmp_path):
    table = pa.table({"n": range(10_000), "s": ["x"] * 10_000})
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=3000)
    source = LoadDataFromFiles(tmp_path / "x.parquet")
    assert source.columns() == ("n", "s")
    batches = list(source.read(source.units()[0]))
    assert max(batch.num_rows for batch in batches) <= BATCH_ROWS
    assert pa.concat_tables(batches).equals(table)


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.jsonl.gz", "x.csv.gz"])
@pytest.mark.parametrize("content", ["", "\n\n"])
def test_an_empty_file_has_no_rows(tmp_path, name, content):
    source = LoadDataFromFiles(str(write(tmp_path / name, content)))
    assert rows_of(source) == []
    assert source.columns() == ()


def test_a_header_alone_has_no_rows(tmp_path):
    source = LoadDataFromFiles(str(write(tmp_path / "x.csv", "a,b\n")))
    assert rows_of(source) == []
    assert source.columns() == ("a", "b")
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "x.parquet")
    assert rows_of(LoadDataFromFiles(str(tmp_path / "x.parquet"))) == []
    assert rows_of(LoadDataFromFiles(str(write(tmp_path / "x.json", "[]")))) == []


def test_a_key_that_appears_late_is_read(tmp_path):
    rows = [{"a": n} for n in range(BATCH_ROWS)] + [{"a": 1.5, "b": "x"}]
    source = LoadDataFromFiles(str(write(tmp_path / "x.jsonl", lines(*rows))))
    assert source.columns() == ("a",)
    first, second = source.read(source.units()[0])
    assert first.column_names == ["a"]
    assert second.to_pylist() == [{"a": 1.5, "b": "x"}]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        (
            "x.jsonl",
            '{"a": 1}\n{"a": 1,,}\n',
            r"x\.jsonl', line 2 is not JSON .*'\{\"a\": 1,,\}'; write one JSON object",
        ),
        ("x.jsonl", '{"a": 1}\n[1]\n', "line 2 is a list, not an object"),
        ("x.jsonl", '{"a": 1}\n\n{"a": "x"}\n', "line 3, column 'a': 'x' .str. does not fit the values before it"),
        ("x.jsonl", '{"_path": 1}\n', "has the column '_path', a name kept for lineage"),
        ("x.json", '[{"a": 1}, 5]', "item 2 is a int"),
        ("x.json", '[{"a": 1}', "is not a JSON list"),
        ("x.json", '{\n"a": 1\n}', "line 1 is not JSON"),
        ("x.csv", "a,b\n1,2\n3\n", r"x\.csv', line 3 is not a table .*Expected 2 columns, got 1"),
        ("x.csv", b"a,b\n1,\xff\n", "is not a table"),
        ("x.csv", "a,a\n1,2\n", "two columns 'a'"),
        ("x.csv", "_path,b\n1,2\n", "a name kept for lineage"),
        ("x.parquet", "no parquet", "is not a complete Parquet file"),
        ("x.parquet", "", "is not a complete Parquet file"),
    ],
)
def test_a_malformed_file_is_named_with_the_place(tmp_path, name, text, said):
    path = write(tmp_path / name, text)
    with pytest.raises(InputError, match=said):
        rows_of(LoadDataFromFiles(str(path)))


def test_rows_before_a_malformed_line_are_in_earlier_batches(tmp_path):
    path = write(tmp_path / "x.jsonl", lines(*({"a": n} for n in range(BATCH_ROWS))) + "{\n")
    tables = LoadDataFromFiles(str(path)).read(Unit("x.jsonl", str(path)))
    assert next(tables).num_rows == BATCH_ROWS
    with pytest.raises(InputError, match=f"line {BATCH_ROWS + 1}"):
        next(tables)


def test_a_type_that_changes_between_batches_is_named(tmp_path):
    rows = [{"a": n} for n in range(BATCH_ROWS)] + [{"a": "x"}]
    path = write(tmp_path / "x.jsonl", lines(*rows))
    with pytest.raises(InputError, match=f"line {BATCH_ROWS + 1} and after it do not fit .*int64 vs string"):
        rows_of(LoadDataFromFiles(str(path)))


def test_a_packed_file_that_was_cut_is_refused(tmp_path):
    path = write(tmp_path / "x.jsonl.gz", lines(*ROWS))
    path.write_bytes(path.read_bytes()[:-12])
    with pytest.raises(InputError, match="cannot be read"):
        rows_of(LoadDataFromFiles(str(path)))
    (tmp_path / "y.csv.gz").write_bytes(b"not packed")
    with pytest.raises(InputError, match="cannot be read"):
        rows_of(LoadDataFromFiles(str(tmp_path / "y.csv.gz")))


def test_csv_types_are_those_that_all_values_have(tmp_path):
    header = "int,float,bool,zip,late,big,words,none,gap"
    first = "1,1.5,true,007,1,1234567890123456789,NA,,5"
    last = "-2,3,False,123,x,2,null,,"
    path = write(tmp_path / "x.csv", "\n".join([header, *[first] * BATCH_ROWS, last]) + "\n")
    rows = rows_of(LoadDataFromFiles(str(path)))
    assert rows[0] == {
        "int": 1,
        "float": 1.5,
        "bool": True,
        "zip": "007",
        "late": "1",
        "big": "1234567890123456789",
        "words": "NA",
        "none": "",
        "gap": 5,
    }
    assert rows[-1] == {
        "int": -2,
        "float": 3.0,
        "bool": False,
        "zip": "123",
        "late": "x",
        "big": "2",
        "words": "null",
        "none": "",
        "gap": None,
    }


# Which files.


def test_globs_name_their_files_from_the_fixed_root(tmp_path):
    for name in ("b/2.jsonl", "b/c/3.jsonl", "1.jsonl", "b/_skip.jsonl", "b/.hidden.jsonl", "b/x.txt"):
        write(tmp_path / name, lines({"n": name}))
    source = LoadDataFromFiles(f"{tmp_path}/**/*.jsonl")
    assert [unit.name for unit in source.units()] == ["1.jsonl", "b/2.jsonl", "b/c/3.jsonl"]
    assert [row["n"] for row in rows_of(source)] == ["1.jsonl", "b/2.jsonl", "b/c/3.jsonl"]
    assert [unit.name for unit in LoadDataFromFiles(f"{tmp_path}/b/*.jsonl").units()] == ["2.jsonl"]


def test_names_do_not_depend_on_where_the_files_are(tmp_path, monkeypatch):
    for home in ("x", "deep/er/y"):
        write(tmp_path / home / "in" / "a.jsonl", "")
        write(tmp_path / home / "in" / "sub" / "a.jsonl", "")
    names = [
        [unit.name for unit in LoadDataFromFiles(f"{tmp_path}/{home}/in/**/*.jsonl").units()]
        for home in ("x", "deep/er/y")
    ]
    assert names[0] == names[1] == ["a.jsonl", "sub/a.jsonl"]
    monkeypatch.chdir(tmp_path / "x")
    assert [unit.name for unit in LoadDataFromFiles("in/**/*.jsonl").units()] == names[0]
    assert [unit.name for unit in LoadDataFromFiles("**/*.jsonl").units()] == ["in/a.jsonl", "in/sub/a.jsonl"]


def test_lists_of_paths_are_told_apart_and_read_once(tmp_path):
    one = write(tmp_path / "train" / "x.jsonl", lines({"n": 1}))
    two = write(tmp_path / "test" / "x.jsonl", lines({"n": 2}))
    three = write(tmp_path / "test" / "y.csv", "n\n3\n")
    source = LoadDataFromFiles([str(one), str(two), f"{tmp_path}/test/*", str(three)])
    assert [unit.name for unit in source.units()] == ["test/x.jsonl", "train/x.jsonl", "y.csv"]
    assert [row["n"] for row in rows_of(source)] == [2, 1, 3]


def test_a_folder_is_all_files_of_known_kinds_in_it(tmp_path):
    for name in ("b.jsonl", "a.csv", "README.md", "_metadata.json", ".x.json", "sub/c.jsonl"):
        write(tmp_path / name, "n\n" if name.endswith("csv") else lines({"n": 1}))
    assert [unit.name for unit in LoadDataFromFiles(str(tmp_path)).units()] == ["a.csv", "b.jsonl"]
    assert [unit.name for unit in LoadDataFromFiles(f"{tmp_path}/").units()] == ["a.csv", "b.jsonl"]


def test_a_text_is_a_row(tmp_path):
    write(tmp_path / "b.txt", "\ufeffOne.\n\nTwo, wörtlich.\n")
    write(tmp_path / "a.md", "# Title")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"packed"))
    source = LoadDataFromFiles(str(tmp_path))
    assert source.columns() == ("text", "file")
    assert source.row_count() == 3
    assert rows_of(source) == [
        {"text": "# Title", "file": "a.md"},
        {"text": "One.\n\nTwo, wörtlich.\n", "file": "b.txt"},
        {"text": "packed", "file": "c.txt.gz"},
    ]


def test_what_is_no_text_is_named(tmp_path):
    (tmp_path / "x.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"x\.txt' is not UTF-8 text \(byte 3\)"):
        rows_of(LoadDataFromFiles(str(tmp_path / "x.txt")))


def run_folder(folder: Path, *leaves: str) -> Path:
    lineage = {name: ["x", "y"] for name in OUTPUT_LINEAGE}
    for leaf in leaves:
        (folder / "data" / leaf).mkdir(parents=True)
        for part in range(2):
            pq.write_table(pa.table({"a": [part, part], **lineage}), folder / "data" / leaf / f"part-{part}.parquet")
    write(folder / "manifest.json", "{}")
    write(folder / "failures" / "part-0.parquet", "x")
    return folder


def test_a_run_folder_and_its_dataset_are_read_without_lineage(tmp_path):
    folder = run_folder(tmp_path / "out", "leaf")
    for path in (folder, folder / "data" / "leaf", folder / "data" / "leaf" / "*.parquet"):
        source = LoadDataFromFiles(str(path))
        assert [unit.name for unit in source.units()] == ["part-0.parquet", "part-1.parquet"]
        assert source.columns() == ("a",)
        assert rows_of(source) == [{"a": 0}, {"a": 0}, {"a": 1}, {"a": 1}]


def test_of_several_datasets_one_must_be_named(tmp_path):
    folder = run_folder(tmp_path / "out", "x", "y")
    with pytest.raises(InputError, match=r"has 2 datasets \(.*data/x', .*data/y'\); name the one to read"):
        LoadDataFromFiles(str(folder)).units()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nowhere/x.jsonl", "is not there, nor is its folder 'nowhere'"),
        ("dat.jsonl", r"is not there \(did you mean 'data.jsonl'\?\)"),
        ("*.parquet", "no file matches '\\*.parquet'"),
        ("data.doc", "is of no known kind"),
        ("data.jsnl", "did you mean '.jsonl'"),
        ("data.parquet.gz", "is of no known kind"),
        ("empty", "has no file of a known kind"),
        ("nested", r"to read the folders in it write 'nested/\*\*/\*\.parquet'"),
        ("s3://bucket/x.jsonl", "is an address"),
    ],
)
def test_a_path_that_stands_for_nothing_is_named(tmp_path, monkeypatch, path, said):
    for name in ("data.jsonl", "data.doc", "data.jsnl", "data.parquet.gz", "empty/x.doc", "nested/in/x.csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    source = LoadDataFromFiles(path)
    with pytest.raises(InputError, match=said):
        source.units()
    assert source.columns() is None


def test_paths_may_be_path_objects_and_nothing_else(tmp_path):
    path = write(tmp_path / "x.jsonl", lines({"a": 1}))
    assert rows_of(LoadDataFromFiles(path)) == rows_of(LoadDataFromFiles(path=[path])) == [{"a": 1}]
    with pytest.raises(SpecError, match="path"):
        LoadDataFromFiles(path=5)
    with pytest.raises(SpecError, match="path"):
        LoadDataFromFiles([])
    with pytest.raises(SpecError, match="did you mean 'num_examples'"):
        LoadDataFromFiles("x", num_exmples=3)


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet", "json"])
@pytest.mark.parametrize("most", [1, 3, 4, 100])
def test_num_examples_limits_all_files_together(tmp_path, kind, most):
    rows = [{"n": n} for n in range(9)]
    for part in range(3):
        mine = rows[part * 3 : part * 3 + 3]
        path = tmp_path / f"{part}.{kind}"
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(mine), path)
        else:
            text = {
                "jsonl": lines(*mine),
                "json": json.dumps(mine),
                "csv": "n\n" + "".join(f"{r['n']}\n" for r in mine),
            }
            write(path, text[kind])
    source = LoadDataFromFiles(str(tmp_path), num_examples=most)
    assert rows_of(source) == rows[:most]
    assert len(source.units()) == min(3, -(-most // 3))
    assert list(source.read(Unit("2.x", str(tmp_path / f"2.{kind}")))) == []


def test_a_loader_travels(tmp_path):
    source = LoadDataFromFiles(str(write(tmp_path / "x.jsonl", lines({"a": 1}))), name="seed", identity=("a",))
    assert rows_of(pickle.loads(pickle.dumps(source))) == [{"a": 1}]


# Round trips.

values = {
    "i": st.none() | st.integers(-(2**63), 2**63 - 1),
    "f": st.none() | st.floats(allow_nan=False, allow_infinity=False),
    "s": st.none() | st.text(),
    "b": st.none() | st.booleans(),
    "l": st.none() | st.lists(st.text(max_size=3), max_size=3),
    "d": st.none() | st.fixed_dictionaries({"x": st.integers(0, 9), "y": st.text(max_size=3)}),
}
row_lists = st.lists(st.fixed_dictionaries(values), min_size=1, max_size=8)


def same(found, rows):
    assert [{name: row.get(name) for name in values} for row in found] == rows


@settings(deadline=None)
@given(row_lists)
def test_what_is_written_is_read(rows):
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder, "x.jsonl"), lines(*rows))
        write(Path(folder, "y.json.gz"), json.dumps(rows))
        pq.write_table(pa.Table.from_pylist(rows), os.path.join(folder, "z.parquet"))
        for name in ("x.jsonl", "y.json.gz", "z.parquet"):
            same(rows_of(LoadDataFromFiles(os.path.join(folder, name))), rows)
    same(rows_of(LoadDataFromDicts(rows)), rows)


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text(alphabet='{}[]":,ab1\n').map(str.encode))
def test_any_content_is_read_or_refused(content):
    with tempfile.TemporaryDirectory() as folder:
        for name in ("x.jsonl", "x.json", "x.csv", "x.tsv", "x.parquet", "x.jsonl.gz"):
            path = Path(folder, name)
            path.write_bytes(content)
            said = refusal(LoadDataFromFiles(path))
            assert said is None or str(path) in said


def refusal(source):
    try:
        rows_of(source)
    except InputError as error:
        return str(error)
    return None


def test_a_source_of_files_may_say_its_paths_by_a_method(tmp_path):
    class Named(FileSource):
        folder: str

        def paths(self):
            return [f"{self.folder}/{name}.jsonl" for name in ("one", "two")]

    for name in ("one", "two"):
        write(tmp_path / f"{name}.jsonl", f'{{"name": "{name}"}}\n')
    assert [row["name"] for row in rows_of(Named(folder=str(tmp_path)))] == ["one", "two"]
