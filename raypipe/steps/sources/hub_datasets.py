"""Opens datasets with the `datasets` library and reads them as Arrow tables, a batch at a time.

The one door to that library, which is imported when a dataset is first touched. Knows nothing of the steps that read.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

import pyarrow as pa
import pyarrow.dataset

from raypipe.errors import InputError, nearest
from raypipe.security.secrets import redact_address
from raypipe.steps.files.formats import user_columns


@dataclass(frozen=True, slots=True)
class DatasetLocation:
    """Where a dataset is, and how it is read; locations that differ only in how it is read are equal."""

    path: str
    """`owner/name` on the Hub, or a folder."""
    config: str | None = None
    revision: str | None = None
    is_saved: bool = False
    """Whether `save_to_disk` wrote it."""
    storage_options: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    is_streamed: bool = field(default=False, compare=False)
    """Whether rows are downloaded as they are read, instead of all before the first."""

    def __str__(self) -> str:
        return f"dataset {self.path!r}"


def is_saved_dataset(folder: str) -> bool:
    """Whether `save_to_disk` wrote a dataset into `folder`."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json"))


P = ParamSpec("P")
R = TypeVar("R")


def cache_hub(
    function: Callable[Concatenate[DatasetLocation, P], R],
) -> Callable[Concatenate[DatasetLocation, P], R]:
    """Remembers what the Hub answered; folders, which may change, are read anew."""
    remembered = lru_cache(maxsize=64)(function)

    def call(location: DatasetLocation, *more: P.args, **options: P.kwargs) -> R:
        is_local = location.is_saved or os.path.isdir(location.path)
        return (function if is_local else remembered)(location, *more, **options)

    return call


@cache_hub
def splits(location: DatasetLocation) -> Mapping[str, Any]:
    """The splits by name, without their rows; a saved dataset without splits has one named "". Raises InputError."""
    with _library(location) as library:
        if location.is_saved:
            found = library.load_from_disk(location.path, storage_options=copy(location.storage_options))
            return found if isinstance(found, dict) else {str(found.split or ""): found}
        builder = library.load_dataset_builder(
            location.path, location.config, revision=location.revision, storage_options=copy(location.storage_options)
        )
        if not os.path.isdir(location.path):
            check_files(location, [str(file) for files in (builder.config.data_files or {}).values() for file in files])
        if hasattr(builder.config, "fragment_scan_options"):
            # By default every row group of a Parquet file stays in memory until the file's end.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        return builder.as_streaming_dataset()


def check_files(location: DatasetLocation, files: Sequence[str]) -> None:
    """Raises InputError where a dataset on the Hub names files of this machine, or of other hosts, as its own."""
    for file in files:
        if not file.startswith(f"hf://datasets/{location.path}@"):
            problem = f"names {redact_address(file)}, which is not one of its own files, as the source of its rows"
            raise InputError(f"{location} {problem}; download it, look at its README, and name its folder")


def choose_split(location: DatasetLocation, split: str | None) -> str:
    """The split to read, by default the only one. Raises InputError when there is none of that name."""
    known = splits(location)
    if split is None:
        if len(known) == 1:
            return next(iter(known))
        listed = ", ".join(repr(name) for name in known)
        raise InputError(f"{location} has {len(known)} splits ({listed}); name the one to read with split")
    if list(known) == [""]:
        return ""
    parts = [split] if location.is_saved else [part.partition("[")[0].strip() for part in split.split("+")]
    for name in parts:
        if name not in known and (name != "all" or location.is_saved):
            raise InputError(f"{location} has no split {name!r}{nearest(name, list(known))}")
    return split


def _first_split(location: DatasetLocation, split: str) -> Any:
    """The first split in `train[:10%]+test`, without its rows; it has the columns of all. Raises InputError."""
    known, first = splits(location), split.partition("+")[0].partition("[")[0].strip()
    return known.get(first, next(iter(known.values())))


@cache_hub
def columns_of(location: DatasetLocation, split: str) -> tuple[str, ...] | None:
    """Columns of the rows, from the dataset's description or its first row. Raises InputError."""
    dataset = _first_split(location, split)
    names = cast("list[str] | None", dataset.column_names)
    if names is None:
        with _library(location):
            first = next(iter(dataset.with_format("arrow").iter(batch_size=1)), None)
        names = None if first is None else cast("list[str]", first.column_names)
    return None if names is None else tuple(user_columns(location, names))


def count_rows(location: DatasetLocation, split: str) -> int | None:
    """Number of rows, where the dataset's description says it. Raises InputError."""
    if location.is_saved:
        return len(splits(location)[split])
    described = _first_split(location, split).info.splits or {}
    return described[split].num_examples if split in described else None


def tables(location: DatasetLocation, split: str, batch_rows: int) -> Iterator[pa.Table]:
    """The rows in order, without the lineage columns of an earlier run. Raises InputError.

    Without streaming all are downloaded before the first is read, into the library's cache.
    """
    if location.is_saved or location.is_streamed:
        dataset = splits(location)[split]
    else:
        options: Any = {"revision": location.revision, "storage_options": copy(location.storage_options)}
        with _library(location) as library:
            dataset = library.load_dataset(location.path, location.config, split=split, **options)
    with _library(location):
        batches = iter(dataset.with_format("arrow").iter(batch_size=batch_rows))
    while True:
        with _library(location):
            table = next(batches, None)
        if table is None:
            return
        # The schema's metadata describes the library's own columns; it would be wrong for the columns of steps.
        yield table.select(user_columns(location, table.column_names)).replace_schema_metadata(None)


@contextmanager
def _library(location: DatasetLocation) -> Generator[Any]:
    """The library, without progress bars; its errors become an InputError."""
    try:
        library: Any = import_module("datasets")
    except ImportError:
        raise InputError(f"{location} needs the package 'datasets'; install it: pip install 'raypipe[hub]'") from None
    shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    # In every version of the library, a broken connection raises a base class of the Hub's own error.
    broken = import_module("huggingface_hub.errors").HfHubHTTPError.__bases__
    try:
        yield library
    except (
        library.exceptions.DatasetsError,
        pa.ArrowException,
        *broken,
        OSError,
        ValueError,
        LookupError,
        TypeError,
    ) as error:
        cause = error.__cause__ or error
        reason = f"{type(cause).__name__}: {str(cause).strip()}".split("\n", maxsplit=1)[0]
        raise InputError(f"{location} cannot be read ({reason}); check its name, config and split") from None
    finally:
        if shown:
            library.enable_progress_bars()
