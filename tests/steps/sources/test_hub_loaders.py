"""Reading datasets of the `datasets` library, data files in distilabel's words, and drawn examples."""

from __future__ import annotations

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.contracts.step import Unit
from raypipe.errors import InputError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.row import OUTPUT_LINEAGE
from raypipe.steps.columns.keep_columns import KeepColumns
from raypipe.steps.sources.data_sampler import DataSampler
from raypipe.steps.sources.file_system_loader import LoadDataFromFileSystem
from raypipe.steps.sources.hub_loaders import LoadDataFromDisk, LoadDataFromHub
from raypipe.steps.sources.loaders import BATCH_ROWS

os.environ["HF_HUB_OFFLINE"] = "1"
datasets = pytest.importorskip("datasets")

# The library leaves it to the garbage collector to close a CSV file that was not read to its end.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")

ROWS = [{"n": n, "text": f"t{n}"} for n in range(5)]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing is kept between tests, and no test asks the Hub."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)


def rows_of(source):
    return [row for unit in source.units() for table in source.read(unit) for row in table.to_pylist()]


def write(folder, **splits):
    folder.mkdir(parents=True, exist_ok=True)
    for split, rows in splits.items():
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def save(folder, rows=ROWS, **splits):
    made = {name: datasets.Dataset.from_list(part) for name, part in splits.items()}
    dataset = datasets.DatasetDict(made) if made else datasets.Dataset.from_list(rows)
    dataset.save_to_disk(folder)
    return folder


# A folder of files, or one that was saved, in the place of a dataset on the Hub.


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet", "saved", "saved splits"])
def test_a_folder_is_read_in_order(tmp_path, form, streaming):
    folder = tmp_path / "data"
    if form.startswith("saved"):
        save(folder, **({"train": ROWS, "test": ROWS[:1]} if form == "saved splits" else {}))
    else:
        write(folder, train=ROWS, test=ROWS[:1])
        if form != "jsonl":
            for path in sorted(folder.iterdir()):
                frame = datasets.Dataset.from_list([json.loads(line) for line in path.read_text().splitlines()])
                getattr(frame, f"to_{form}")(path.with_suffix(f".{form}"))
                path.unlink()
    source = LoadDataFromHub("hub", repo_id=str(folder), streaming=streaming)
    assert source.problems() == []
    assert rows_of(source) == rows_of(pickle.loads(pickle.dumps(source))) == ROWS
    assert source.columns() == source.columns_after(()) == ("n", "text")
    assert source.row_count() in (5, None)
    if form == "csv":
        gc.collect()


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("most", [1, 4, 5, 100])
def test_no_more_rows_than_asked_for(tmp_path, most, streaming):
    folder = write(tmp_path / "data", train=ROWS)
    source = LoadDataFromHub(repo_id=str(folder), num_examples=most, streaming=streaming)
    assert rows_of(source) == ROWS[:most]
    assert LoadDataFromDisk(dataset_path=save(tmp_path / "saved"), num_examples=most).row_count() == min(most, 5)


@pytest.mark.parametrize(
    ("split", "expected", "name"),
    [
        ("test", ROWS[:2], "test"),
        ("train[:3]", ROWS[:3], "train"),
        ("train[3:]+test[:1]", [*ROWS[3:], ROWS[0]], "train+test"),
        ("all", [*ROWS, *ROWS[:2]], "all"),
    ],
)
def test_splits_and_parts_of_them(tmp_path, split, expected, name):
    source = LoadDataFromHub(repo_id=str(write(tmp_path / "data", train=ROWS, test=ROWS[:2])), split=split)
    assert [unit.name for unit in source.units()] == [name]
    assert source.columns() == ("n", "text")
    assert rows_of(source) == expected


def test_the_name_of_a_part_does_not_say_where_it_is_stored(tmp_path):
    here, there = write(tmp_path / "here", train=ROWS), tmp_path / "there" / "deep"
    shutil.copytree(here, there)
    saved = save(tmp_path / "saved", train=ROWS)
    sources = [LoadDataFromHub(repo_id=str(place)) for place in (here, there, saved)]
    sources.append(LoadDataFromDisk(dataset_path=str(saved)))
    assert {unit.name for source in sources for unit in source.units()} == {"train"}


@pytest.mark.parametrize("streaming", [False, True])
def test_long_datasets_come_in_batches_without_the_library_s_own_schema(tmp_path, streaming):
    folder = tmp_path / "data"
    folder.mkdir()
    rows = [{"n": n} for n in range(2500)]
    datasets.Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    source = LoadDataFromHub(repo_id=str(folder), streaming=streaming, batch_size=50)
    tables = list(source.read(source.units()[0]))
    assert max(table.num_rows for table in tables) == 1024
    assert [row for table in tables for row in table.to_pylist()] == rows
    assert all(table.schema.metadata is None for table in tables)
    few = LoadDataFromHub(repo_id=str(folder), streaming=streaming, num_examples=1500)
    assert rows_of(few) == rows[:1500]


def test_a_streamed_file_is_never_held_whole(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    table = pa.table({"bytes": [os.urandom(1000) for _ in range(40_000)]})
    pq.write_table(table, folder / "train.parquet", row_group_size=1000, use_dictionary=False)
    size_bytes = table.nbytes
    del table
    source = LoadDataFromHub(repo_id=str(folder), streaming=True)
    (unit,) = source.units()
    tracemalloc.start()  # the library reads files into Python's own memory
    try:
        assert sum(read.num_rows for read in source.read(unit)) == 40_000
        assert tracemalloc.get_traced_memory()[1] < size_bytes / 4
    finally:
        tracemalloc.stop()


def test_rows_of_an_earlier_run_lose_their_lineage(tmp_path):
    row = dict.fromkeys(OUTPUT_LINEAGE, "x")
    source = LoadDataFromHub(repo_id=str(write(tmp_path / "run", train=[{"a": 1, **row}])))
    assert (source.columns(), rows_of(source)) == (("a",), [{"a": 1}])
    taken = LoadDataFromHub(repo_id=str(write(tmp_path / "taken", train=[{"_path": 1}])))
    with pytest.raises(InputError, match="'_path', a name kept for lineage"):
        rows_of(taken)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"split": "tests"}, r"has no split 'tests' \(did you mean 'test'\?\)"),
        ({"split": "train[:1]+dev"}, "has no split 'dev'"),
        ({"config": "french"}, "cannot be read .*french"),
        ({"repo_id": "no-such-owner/no-such-name"}, "dataset 'no-such-owner/no-such-name' cannot be read"),
        ({"repo_id": "no/such/folder"}, "dataset 'no/such/folder' cannot be read"),
    ],
)
def test_what_is_not_there_is_named_before_a_row_is_read(tmp_path, options, said, streaming):
    folder = write(tmp_path / "data", train=ROWS, test=ROWS)
    source = LoadDataFromHub(**({"repo_id": str(folder), "streaming": streaming} | options))
    with pytest.raises(InputError, match=said):
        source.units()


@pytest.mark.parametrize("streaming", [False, True])
def test_a_broken_file_is_an_input_error(tmp_path, streaming):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "train.parquet").write_bytes(b"PAR1 no more")
    with pytest.raises(InputError, match="cannot be read"):
        rows_of(LoadDataFromHub(repo_id=str(folder), streaming=streaming))


def test_the_library_is_silent_and_its_bars_come_back(tmp_path, capfd):
    save(tmp_path / "data")
    capfd.readouterr()
    assert not datasets.are_progress_bars_disabled()
    rows_of(LoadDataFromHub(repo_id=str(write(tmp_path / "files", train=ROWS))))
    assert not datasets.are_progress_bars_disabled()
    assert tuple(capfd.readouterr()) == ("", "")


def test_a_dataset_and_drawn_examples_in_a_run(tmp_path):
    folder = write(tmp_path / "data", train=ROWS)
    with Pipeline() as pipeline:
        LoadDataFromHub("seed", repo_id=str(folder)) >> KeepColumns("kept", columns=["n"])
        DataSampler(ROWS, name="draw", samples=3) >> KeepColumns("shown", columns=["text"])
    result = pipeline.run(tmp_path / "out", engine="local")
    assert result["kept"].to_arrow().column("n").to_pylist() == [0, 1, 2, 3, 4]
    assert [len(texts) for texts in result["shown"].to_arrow().column("text").to_pylist()] == [2, 2, 2]
    assert not (result["kept"].to_arrow().schema.metadata or {}).get(b"huggingface")
    again = LoadDataFromHub(repo_id=str(tmp_path / "out" / "data" / "kept"))
    assert (again.columns(), rows_of(again)) == (("n",), [{"n": n} for n in range(5)])


# Options that come late, options that do not fit.


@pytest.mark.parametrize(
    ("kind", "option"),
    [(LoadDataFromHub, "repo_id"), (LoadDataFromDisk, "dataset_path"), (LoadDataFromFileSystem, "data_files")],
)
def test_the_place_may_come_late_but_must_come(kind, option):
    with Pipeline() as pipeline:
        kind("seed") >> KeepColumns(columns=["n"])
    with pytest.raises(SpecError) as caught:
        pipeline.validate()
    (violation,) = caught.value.violations
    assert (violation.where, option in violation.problem) == ("step 'seed'", True)
    assert f'pipeline.run(parameters={{"seed": {{"{option}": …}}}})' in violation.problem
    source = kind()
    assert source.columns() is None
    with pytest.raises(InputError, match=f"needs the option '{option}'"):
        source.units()
    late = pipeline.replaced({"seed": kind("seed", **{option: "some/place"})})
    assert late.steps[0].problems() == []


def test_the_step_of_the_advice_is_the_one_that_the_graph_names():
    with Pipeline() as pipeline:
        LoadDataFromHub() >> KeepColumns(columns=["n"])
    with pytest.raises(SpecError, match=r"step 'load_data_from_hub_0'.*\"load_data_from_hub_0\""):
        pipeline.graph()


@pytest.mark.parametrize("split", ["train[:10%]", "train+test", "all"])
def test_parts_of_splits_cannot_be_streamed(split):
    (problem,) = LoadDataFromHub(repo_id="a/b", split=split, streaming=True).problems()
    assert "cannot stream the split" in problem and "num_examples" in problem


def test_a_missing_library_is_named(monkeypatch, tmp_path):
    folder = write(tmp_path / "data", train=ROWS)
    monkeypatch.setitem(sys.modules, "datasets", None)
    source = LoadDataFromHub(repo_id=str(folder))
    assert "pip install 'raypipe[hub]'" in source.problems()[0]
    assert source.columns() is None
    with pytest.raises(InputError, match=r"pip install 'raypipe\[hub\]'"):
        source.units()


def test_storage_options_are_written_nowhere(tmp_path):
    with Pipeline() as pipeline:
        source = LoadDataFromHub(repo_id=str(write(tmp_path / "data", train=ROWS)), storage_options={"key": "canary"})
    assert "canary" not in pipeline.to_yaml() + repr(source) + repr(source.locate())
    assert pickle.loads(pickle.dumps(source)).storage_options == {"key": "canary"}


def test_importing_and_declaring_loads_no_library():
    code = (
        "import sys; from raypipe.steps.sources.hub_loaders import LoadDataFromHub, LoadDataFromDisk;"
        "from raypipe.steps.sources.data_sampler import DataSampler; import raypipe.steps.sources.file_system_loader;"
        "assert LoadDataFromHub(repo_id='a/b').problems() == [];"
        "assert not {'datasets', 'pyarrow', 'pandas'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# Saved on disk.


def test_a_saved_dataset_with_splits(tmp_path):
    folder = save(tmp_path / "saved", train=ROWS, test=ROWS[:2])
    source = LoadDataFromDisk(dataset_path=folder, split="test")
    assert (rows_of(source), source.row_count(), source.columns()) == (ROWS[:2], 2, ("n", "text"))
    with pytest.raises(InputError, match=r"has 2 splits \('train', 'test'\); name the one"):
        LoadDataFromDisk(dataset_path=folder).units()
    with pytest.raises(InputError, match=r"no split 'tset' \(did you mean 'test'"):
        LoadDataFromDisk(dataset_path=folder, split="tset").units()
    with pytest.raises(InputError, match=r"has no split 'train\[:1\]'"):
        LoadDataFromHub(repo_id=str(folder), split="train[:1]").units()


def test_a_saved_dataset_without_splits(tmp_path):
    source = LoadDataFromDisk(dataset_path=str(save(tmp_path / "saved")))
    assert (rows_of(source), [unit.name for unit in source.units()]) == (ROWS, [""])
    datasets.Dataset.from_list(ROWS, split="test").save_to_disk(tmp_path / "test")
    assert rows_of(LoadDataFromDisk(dataset_path=str(tmp_path / "test"))) == ROWS


def test_one_config_of_a_distiset(tmp_path):
    root = tmp_path / "distiset"
    for config in ("sft", "dpo"):
        save(root / config, train=[{"from": config}])
    (root / "distiset_configs").mkdir()
    source = LoadDataFromDisk(dataset_path=str(root), is_distiset=True, config="dpo")
    assert (rows_of(source), source.units()[0].name) == ([{"from": "dpo"}], "dpo/train")
    with pytest.raises(InputError, match=r"has 2 configs \('dpo', 'sft'\)"):
        LoadDataFromDisk(dataset_path=str(root), is_distiset=True).units()
    with pytest.raises(InputError, match="cannot be read"):
        LoadDataFromDisk(dataset_path=str(root), is_distiset=True, config="ppo").units()
    shutil.rmtree(root / "sft")
    assert LoadDataFromDisk(dataset_path=str(root), is_distiset=True).units()[0].name == "dpo/train"
    assert "write is_distiset=True" in LoadDataFromDisk(dataset_path=str(root), config="dpo").problems()[0]


# Files in distilabel's words.


def test_files_are_read_as_the_plain_loader_does(tmp_path):
    folder = write(tmp_path / "data", a=ROWS[:2], b=ROWS[2:])
    for files in (folder, str(folder), [folder / "a.jsonl", str(folder / "b.jsonl")]):
        source = LoadDataFromFileSystem(data_files=files)
        assert rows_of(source) == ROWS
        assert [unit.name for unit in source.units()] == ["a.jsonl", "b.jsonl"]
        assert (source.columns(), source.row_count()) == (("n", "text"), 5)
    few = LoadDataFromFileSystem(data_files=folder, num_examples=3, streaming=True, batch_size=2)
    assert (rows_of(few), few.row_count()) == (ROWS[:3], 3)


@pytest.mark.parametrize(
    ("filetype", "names"),
    [
        (None, ["x.csv", "x.json", "x.jsonl", "x.parquet"]),
        ("csv", ["x.csv"]),
        ("json", ["x.json", "x.jsonl"]),
        ("jsonl", ["x.jsonl"]),
        ("parquet", ["x.parquet"]),
    ],
)
def test_files_of_one_type(tmp_path, filetype, names):
    (tmp_path / "x.csv").write_text("a\n1\n")
    (tmp_path / "x.json").write_text('[{"a": 1}]')
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    pq.write_table(pa.table({"a": [1]}), tmp_path / "x.parquet")
    source = LoadDataFromFileSystem(data_files=str(tmp_path), filetype=filetype)
    assert [unit.name for unit in source.units()] == names
    assert rows_of(source) == [{"a": 1}] * len(names)
    with pytest.raises(InputError, match="there is no tsv file in"):
        LoadDataFromFileSystem(data_files=str(tmp_path), filetype="tsv").units()


def test_reading_files_adds_no_step_to_an_open_pipeline(tmp_path):
    with Pipeline() as pipeline:
        source = LoadDataFromFileSystem(data_files=str(write(tmp_path / "data", a=ROWS)))
        source.units()
    assert list(pipeline.steps) == [source]
    with pytest.raises(SpecError, match="filetype"):
        LoadDataFromFileSystem(data_files="x", filetype="xml")
    with pytest.raises(SpecError, match="split"):
        LoadDataFromFileSystem(data_files="x", split="test")


# Drawn examples.

POOL = [{"q": f"q{n}", "n": n} for n in range(30)]


def test_every_row_has_lists_of_drawn_items():
    source = DataSampler(data=POOL, size=3, samples=7)
    rows = rows_of(source)
    assert (len(rows), source.row_count(), source.columns()) == (7, 7, ("q", "n"))
    for row in rows:
        assert len(row["q"]) == 3
        assert [f"q{n}" for n in row["n"]] == row["q"]
    assert len({item for row in rows for item in row["n"]}) > 5


def test_a_seed_always_draws_the_same_and_more_samples_begin_with_the_fewer():
    first = rows_of(DataSampler(data=POOL, samples=2 * BATCH_ROWS + 10))
    assert len(first) == 2 * BATCH_ROWS + 10
    assert rows_of(DataSampler(data=POOL, samples=5)) == first[:5]
    assert rows_of(DataSampler(data=POOL, samples=5, seed=1)) != first[:5]
    assert rows_of(DataSampler(data=POOL)) == first[:100]


def test_more_may_be_drawn_than_there_is_and_missing_values_are_null():
    rows = rows_of(DataSampler(data=[{"a": 1}, {"b": "x"}], size=40, samples=2))
    assert {(a, b) for row in rows for a, b in zip(row["a"], row["b"], strict=True)} == {(1, None), (None, "x")}


@pytest.mark.parametrize("data", [[], [{}]])
def test_nothing_to_draw_from_is_refused(data):
    assert "nothing to draw from" in DataSampler(data=data).problems()[0]


def test_a_sampler_s_only_part_has_no_name_and_its_options_are_checked():
    assert DataSampler(data=POOL).units() == [Unit("")]
    with pytest.raises(SpecError, match="size"):
        DataSampler(data=POOL, size=0)
    with pytest.raises(InputError, match="row 2, column 'a'"):
        rows_of(DataSampler(data=[{"a": 1}, {"a": "x"}]))
