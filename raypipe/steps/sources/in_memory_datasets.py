"""Reads the rows of a dataset that a program holds in memory.

Knows nothing of the libraries that datasets come from: an object is asked for its Arrow batches in the ways of pandas,
pyarrow, Hugging Face and Ray.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from pydantic import Field

from raypipe.contracts.step import Columns, Source, Unit
from raypipe.errors import InputError, SpecError
from raypipe.row import RESERVED
from raypipe.steps.idle_options import warn_idle

if TYPE_CHECKING:
    import pyarrow as pa


class LoadDataFromArrow(Source):
    """Rows of a `pyarrow.Table`. They are not saved with the pipeline: whoever loads its file gives them again."""

    table: Any = Field(default=None, exclude=True, repr=False)
    """The `pyarrow.Table`."""

    def units(self) -> list[Unit]:
        """One part. Raises InputError for a pipeline that was loaded from a file, without its rows."""
        if self.table is None:
            problem = "read rows from memory, which the file of the pipeline does not hold"
            raise InputError(f"step {self.name!r} {problem}; name others with --input, or put a loader in its place")
        return [Unit("")]

    def columns(self) -> Columns:
        return None if self.table is None else tuple(name for name in self.table.column_names if name not in RESERVED)

    def row_count(self) -> int | None:
        return None if self.table is None else self.table.num_rows

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        import pyarrow as pa

        for batch in self.table.to_batches(max_chunksize=_BATCH_ROWS):
            yield pa.Table.from_batches([batch])


_BATCH_ROWS = 1024


def make_generator_step(
    dataset: Any,
    pipeline: Any = None,
    *,
    name: str | None = None,
    batch_size: int | None = None,
    output_mappings: Mapping[str, str] | None = None,
) -> Source:
    """A step that reads `dataset`: a list of mappings, a path, or a dataset of pandas, pyarrow, Hugging Face or Ray.

    `name` and `output_mappings` are those of the step. `pipeline` and `batch_size` change nothing, and a warning says
    so. Raises SpecError for anything else, or for a dataset whose columns have no one type.
    """
    from raypipe.values.arrays import ARROW_ERRORS

    if pipeline is not None:
        warn_idle("make_generator_step", "pipeline", "a step belongs to the `with Pipeline(…)` block that is open")
    if batch_size is not None:
        warn_idle("make_generator_step", "batch_size", "rows are passed on as they are read")
    given: dict[str, Any] = {"output_mappings": dict(output_mappings or {})} | ({"name": name} if name else {})
    if isinstance(dataset, str | Path):
        from raypipe.steps.sources.loaders import LoadDataFromFiles

        return LoadDataFromFiles(path=str(dataset), **given)
    if isinstance(dataset, Sequence):
        from raypipe.steps.sources.loaders import LoadDataFromDicts

        return LoadDataFromDicts(data=cast("Sequence[Mapping[str, Any]]", dataset), **given)
    try:
        return LoadDataFromArrow(table=_read_table(dataset), **given)
    except ARROW_ERRORS as error:
        reason = str(error).partition("\n")[0]
        problem = f"is a {type(dataset).__name__} with a column of several types ({reason}); convert the column"
        raise SpecError.of("dataset", f"{problem}, or write files") from None


def _read_table(dataset: Any) -> pa.Table:
    """The rows of a dataset object. Raises SpecError for an object that is none."""
    import pyarrow as pa

    if isinstance(dataset, pa.Table):
        return dataset
    if hasattr(dataset, "iter_batches"):  # Ray
        batches = [batch for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow") if batch.num_rows]
        return pa.concat_tables(batches, promote_options="default") if batches else pa.table({})
    if hasattr(dataset, "with_format") and hasattr(dataset, "column_names"):  # Hugging Face
        if isinstance(dataset.column_names, Mapping):
            splits = ", ".join(repr(split) for split in dataset)
            problem = f"holds several splits ({splits}); choose one, for example dataset[{next(iter(dataset))!r}]"
            raise SpecError.of("dataset", problem)
        return dataset.with_format("arrow")[:].replace_schema_metadata(None)
    if hasattr(dataset, "to_dict") and hasattr(dataset, "iloc"):  # pandas
        return pa.Table.from_pandas(dataset, preserve_index=False).replace_schema_metadata(None)
    problem = (
        f"is a {type(dataset).__name__}; give a list of mappings, a path, or a pandas, Arrow, datasets or Ray dataset"
    )
    raise SpecError.of("dataset", problem)
