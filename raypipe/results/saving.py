"""Brings the datasets of a run to Hugging Face `datasets` and to a folder of them, and back.

Knows what the folder of a run holds, and nothing of how a run is made. `datasets` is loaded when it is needed.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pyarrow as pa

from raypipe.errors import InputError, OutputError, SpecError
from raypipe.results.card import ARROW, card, list_data_files
from raypipe.security.file_modes import owner_only
from raypipe.security.symlinks import check_no_outside_links
from raypipe.security.untrusted_tables import open_parquet
from raypipe.storage.artifacts import ARTIFACTS
from raypipe.storage.paths import reading
from raypipe.storage.run_files import LocalCopy

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

FORMAT = "Hugging Face datasets"


def to_dataset(folder: Path) -> Dataset:
    """The rows of a leaf's folder; they stay on disk. Raises SpecError when `datasets` is not installed."""
    datasets = _datasets()
    if (folder / "state.json").exists():
        return datasets.load_from_disk(str(folder))
    parts = list_data_files(folder)
    if any(_row_count(part) for part in parts):
        with _without_bars(datasets):
            return datasets.Dataset.from_parquet([str(part) for part in parts])
    # The reader of `datasets` stops at a file whose only row group is empty.
    return table_to_dataset(read_table(folder))


def table_to_dataset(table: pa.Table) -> Dataset:
    """Rows in memory. Raises SpecError when `datasets` is not installed."""
    return _datasets().Dataset(table)


@contextmanager
def _without_bars(datasets: Any) -> Generator[None]:
    """What is read is on this disk, which takes no time worth showing."""
    is_shown = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if is_shown:
            datasets.enable_progress_bars()


def read_table(folder: Path) -> pa.Table:
    """All rows of a leaf's folder, in the order of their sources. Raises InputError when there are no files."""
    files = list_data_files(folder)
    if not files:
        raise InputError(f"{folder} holds no rows; the folder of the run is damaged, run the pipeline again")
    is_parquet = files[0].suffix == ".parquet"
    tables: list[pa.Table] = []
    for path in files:
        with reading(path):
            opened = open_parquet(path).read if is_parquet else pa.ipc.open_stream(pa.memory_map(str(path))).read_all
            tables.append(opened())
    rows = pa.concat_tables(tables)
    return rows if is_parquet else rows.replace_schema_metadata(None)


def count_rows(folder: Path) -> int:
    """How many rows a leaf's folder holds."""
    return sum(_row_count(path) for path in list_data_files(folder))


def _row_count(path: Path) -> int:
    if path.suffix == ".parquet":
        with reading(path):
            return open_parquet(path).metadata.num_rows
    return pa.ipc.open_stream(pa.memory_map(str(path))).read_all().num_rows


def split(
    result: LocalCopy, train_size: float, *, shuffle: bool = True, seed: int | None = None
) -> dict[str, DatasetDict]:
    """For each leaf `train`, with the share `train_size` of its rows, and `test`, with the others.

    Raises SpecError for a share that is none, InputError for a leaf that has too few rows.
    """
    if not 0 < train_size < 1:
        problem = f"is the share of rows for training, more than 0 and less than 1, not {train_size}; write 0.8"
        raise SpecError.of("option 'train_size'", problem)
    found: dict[str, DatasetDict] = {}
    for leaf in result.manifest["leaves"]:
        rows = to_dataset(result.path / "data" / leaf)
        if not 0 < int(train_size * len(rows)) < len(rows):
            problem = f"has {len(rows)} rows, too few for 'train' and 'test' with train_size={train_size}"
            raise InputError(f"the dataset {leaf!r} {problem}; choose another size or run with more input")
        found[leaf] = rows.train_test_split(train_size=train_size, shuffle=shuffle, seed=seed)
    return found


def save(result: LocalCopy, path: Path) -> None:
    """Write a folder that `Result.load_from_disk` reads, and `datasets.load_from_disk` leaf by leaf (`data/<leaf>`).

    It appears whole, in place of one saved there before. Raises SpecError when `datasets` is not installed,
    OutputError when the folder holds something else or cannot be written.
    """
    _datasets()
    path = path.absolute()
    _check_free(path)
    check_no_outside_links(result.path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with owner_only(), tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as scratch:
            _write(result, Path(scratch) / "new", path.name)
            _replace(path, Path(scratch))
    except OSError as error:
        raise OutputError(f"the folder {path} cannot be written: {error.strerror or error}") from None


def _replace(path: Path, scratch: Path) -> None:
    """Put the new folder where `path` is, or leave everything as it was."""
    if not path.exists():
        os.rename(scratch / "new", path)
        return
    os.rename(path, scratch / "old")
    try:
        os.rename(scratch / "new", path)
    except OSError:
        os.rename(scratch / "old", path)
        raise


def check_saved(path: Path) -> None:
    """Raises InputError when the folder was not written by `save`."""
    if not _is_saved(path):
        problem = "holds no saved datasets; write them with result.save_to_disk, or read a run with Result(path)"
        raise InputError(f"{path} {problem}")


def _write(result: LocalCopy, folder: Path, name: str) -> None:
    (folder / "data").mkdir(parents=True)
    for leaf in result.manifest["leaves"]:
        _write_leaf(result.path / "data" / leaf, folder / "data" / leaf)
    shutil.copytree(result.path / "failures", folder / "failures")
    if (result.path / ARTIFACTS).exists():
        shutil.copytree(result.path / ARTIFACTS, folder / ARTIFACTS)
    if (result.path / "pipeline.yaml").exists():
        shutil.copyfile(result.path / "pipeline.yaml", folder / "pipeline.yaml")
    manifest = {**result.manifest, "saved_as": FORMAT}
    (folder / "manifest.json").write_bytes(orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
    (folder / "README.md").write_text(card(LocalCopy(folder, manifest), name, files=ARROW), encoding="utf-8")


def _write_leaf(rows: Path, folder: Path) -> None:
    """Without rows it stays Parquet: `datasets` (5.2) loses their columns."""
    if count_rows(rows):
        to_dataset(rows).save_to_disk(str(folder))
    else:
        shutil.copytree(rows, folder)


def _check_free(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise OutputError(f"the output path {path} is a file; name a folder")
    if path.is_dir() and any(path.iterdir()) and not _is_saved(path):
        problem = "is not empty and holds no saved datasets; it is left as it is, name another folder"
        raise OutputError(f"the output folder {path} {problem}")


def _is_saved(path: Path) -> bool:
    try:
        return orjson.loads((path / "manifest.json").read_bytes()).get("saved_as") == FORMAT
    except (OSError, ValueError, AttributeError):
        return False


def _datasets() -> Any:
    try:
        import datasets
    except ImportError:
        problem = "is not installed; pip install 'raypipe[hub]'"
        raise SpecError.of("package 'datasets'", problem) from None
    return datasets
