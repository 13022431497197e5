"""I open datasets with the `datasets` library and read them as Arrow tables, a batch at a time.

I am the one door to that library; it loads when a dataset is first touched. I do not know which step asks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
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
class Place:
    """Where a dataset is: a name on the Hub or a folder. How it is reached (`options`) does not tell two apart."""

    path: str
    config: str | None = None
    revision: str | None = None
    is_saved: bool = False
    """Whether `save_to_disk` wrote it."""
    options: Mapping[str, Any] | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        return f"dataset {self.path!r}"


def holds_saved(folder: str) -> bool:
    """Whether `save_to_disk` wrote a dataset into `folder`."""
    return any(os.path.isfile(os.path.join(folder, name)) for name in ("dataset_dict.json", "state.json"))


P = ParamSpec("P")
R = TypeVar("R")


def asked_once(function: Callable[Concatenate[Place, P], R]) -> Callable[Concatenate[Place, P], R]:
    """The Hub is asked once for the same thing; folders may change."""
    remembered = lru_cache(maxsize=64)(function)

    def answered(place: Place, *more: P.args, **options: P.kwargs) -> R:
        is_local = place.is_saved or os.path.isdir(place.path)
        return (function if is_local else remembered)(place, *more, **options)

    return answered


@asked_once
def splits(place: Place) -> Mapping[str, Any]:
    """The splits by name, no rows read; a saved dataset without splits has the name "". Raises InputError."""
    with _library(place) as library:
        if place.is_saved:
            found = library.load_from_disk(place.path, storage_options=_copied(place.options))
            return found if isinstance(found, dict) else {str(found.split or ""): found}
        builder = library.load_dataset_builder(
            place.path, place.config, revision=place.revision, storage_options=_copied(place.options)
        )
        if not os.path.isdir(place.path):
            check_of_hub(place, [str(file) for files in (builder.config.data_files or {}).values() for file in files])
        if hasattr(builder.config, "fragment_scan_options"):
            # By default every row group of a Parquet file is held until the file's end.
            builder.config.fragment_scan_options = pyarrow.dataset.ParquetFragmentScanOptions(pre_buffer=False)
        return builder.as_streaming_dataset()


def check_of_hub(place: Place, files: Sequence[str]) -> None:
    """Raises InputError where a dataset on the Hub is made of files of this machine, or of other hosts."""
    for file in files:
        if not file.startswith(f"hf://datasets/{place.path}@"):
            problem = f"says that its rows are in {redact_address(file)}, which is not in it"
            raise InputError(f"{place} {problem}; download it, look at its README, and name its folder")


def chosen_split(place: Place, split: str | None) -> str:
    """The split to read, by default the only one. Raises InputError when there is none of that name."""
    known = splits(place)
    if split is None:
        if len(known) == 1:
            return next(iter(known))
        listed = ", ".join(repr(name) for name in known)
        raise InputError(f"{place} has {len(known)} splits ({listed}); name the one to read with split")
    if list(known) == [""]:
        return ""
    for name in [split] if place.is_saved else _named_in(split):
        if name not in known and (name != "all" or place.is_saved):
            raise InputError(f"{place} has no split {name!r}{nearest(name, list(known))}")
    return split


def _named_in(split: str) -> list[str]:
    """The splits in `train[:10%]+test`."""
    return [part.partition("[")[0].strip() for part in split.split("+")]


def described(place: Place, split: str) -> Any:
    """A dataset with the columns of `split`, no rows read. Raises InputError."""
    known = splits(place)
    return known.get(_named_in(split)[0], next(iter(known.values())))


@asked_once
def columns_of(place: Place, split: str) -> tuple[str, ...] | None:
    """Columns of the rows, from what is written down or from the first rows. Raises InputError."""
    dataset = described(place, split)
    names = cast("list[str] | None", dataset.column_names)
    if names is None:
        with _library(place):
            first = next(iter(dataset.with_format("arrow").iter(batch_size=1)), None)
        names = None if first is None else cast("list[str]", first.column_names)
    return None if names is None else tuple(user_columns(place, names))


def count_rows(place: Place, split: str) -> int | None:
    """Number of rows, where it is written down. Raises InputError."""
    if place.is_saved:
        return len(splits(place)[split])
    noted = described(place, split).info.splits or {}
    return noted[split].num_examples if split in noted else None


def tables(place: Place, split: str, streaming: bool, batch_rows: int) -> Iterator[pa.Table]:
    """The rows in order, without the lineage columns of an earlier run. Raises InputError.

    They are downloaded as they are read (`streaming`), or all before the first, into the library's cache.
    """
    with _library(place):
        batches = iter(_opened(place, split, streaming).with_format("arrow").iter(batch_size=batch_rows))
    while True:
        with _library(place):
            table = next(batches, None)
        if table is None:
            return
        # The schema's metadata describes the columns to the library; it would be wrong for what steps make of them.
        yield table.select(user_columns(place, table.column_names)).replace_schema_metadata(None)


def _opened(place: Place, split: str, streaming: bool) -> Any:
    if place.is_saved or streaming:
        return splits(place)[split]
    with _library(place) as library:
        return library.load_dataset(
            place.path,
            place.config,
            split=split,
            revision=place.revision,
            storage_options=_copied(place.options),
        )


def _copied(options: Mapping[str, Any] | None) -> dict[str, Any] | None:
    return None if options is None else dict(options)


@contextmanager
def _library(place: Place) -> Generator[Any]:
    """The library, silent; what it raises becomes an InputError."""
    try:
        library: Any = import_module("datasets")
    except ImportError:
        raise InputError(f"{place} needs the package 'datasets'; install it: pip install 'raypipe[hub]'") from None
    shown = not library.are_progress_bars_disabled()
    library.disable_progress_bars()
    # What the Hub's own error derives from is what a broken connection raises, in every version.
    refused = import_module("huggingface_hub.errors").HfHubHTTPError.__bases__
    said = (library.exceptions.DatasetsError, pa.ArrowException, *refused, OSError, ValueError, LookupError, TypeError)
    try:
        yield library
    except said as error:
        raise InputError(f"{place} cannot be read ({_reason(error)}); check its name, config and split") from None
    finally:
        if shown:
            library.enable_progress_bars()


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {str(cause).strip()}".split("\n", maxsplit=1)[0]
