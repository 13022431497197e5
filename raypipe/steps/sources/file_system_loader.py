"""I read the rows that a pipeline starts from out of data files, in distilabel's words.

I do not know how files are found and read; that stands where `LoadDataFromFiles` looks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal, cast

from pydantic import Field, field_validator

from raypipe.contracts.step import Columns, Source, Unit
from raypipe.errors import InputError
from raypipe.security.permissions import check_file
from raypipe.steps.late_options import missing_option
from raypipe.steps.sources.loaders import LoadDataFromFiles

if TYPE_CHECKING:
    import pyarrow as pa

FileType = Literal["csv", "tsv", "json", "jsonl", "parquet"]

_KINDS = {"json": ("json", "lines"), "jsonl": ("lines",)}


class _FilesOfType(LoadDataFromFiles):
    """Of the files found, those of one type."""

    filetype: FileType | None = None

    def _all_units(self) -> list[Unit]:
        from raypipe.steps.files.locate import kind_of

        units = super()._all_units()
        if self.filetype is None:
            return units
        kinds = _KINDS.get(self.filetype, (self.filetype,))
        kept = [unit for unit in units if kind_of(unit.location) in kinds]
        if not kept:
            listed = ", ".join(repr(path) for path in self.path)
            raise InputError(f"there is no {self.filetype} file in {listed}; change data_files or leave out filetype")
        return kept


class LoadDataFromFileSystem(Source):
    """Rows from data files, as `LoadDataFromFiles` reads them: a file, a folder, a glob or a list of them."""

    data_files: str | list[str] | None = None
    filetype: FileType | None = None
    """Read only files of this type; lines of JSON are `json` too."""
    split: Literal["train"] = "train"
    """Files have no other split."""
    streaming: bool = False
    """Files are always read as they are needed."""
    num_examples: int | None = Field(default=None, ge=1)
    """Most rows, over all files."""
    batch_size: int = Field(default=50, ge=1)
    """Files are read in batches of 4,096 rows."""

    @field_validator("data_files", mode="before")
    @classmethod
    def _are_paths(cls, value: Any) -> Any:
        return [_path(item) for item in cast(Any, value)] if isinstance(value, list | tuple) else _path(value)

    @field_validator("data_files")
    @classmethod
    def _are_allowed(cls, paths: str | list[str] | None) -> Any:
        for path in [paths] if isinstance(paths, str) else paths or ():
            check_file(path, "data_files")
        return paths

    def problems(self) -> list[str]:
        return [*super().problems(), *missing_option(self, "data_files")]

    def units(self) -> list[Unit]:
        for problem in missing_option(self, "data_files"):
            raise InputError(f"step {self.name or type(self).__name__!r} {problem}")
        return self._files().units()

    def columns(self) -> Columns:
        return None if missing_option(self, "data_files") else self._files().columns()

    def row_count(self) -> int | None:
        return self._files().row_count()

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        return self._files().read(unit)

    def _files(self) -> _FilesOfType:
        # Not by its constructor, which would add a step to an open pipeline block.
        paths = [self.data_files] if isinstance(self.data_files, str) else self.data_files or []
        made = _FilesOfType.model_construct(path=paths, num_examples=self.num_examples, filetype=self.filetype)
        made._reach = self._reach
        return made


def _path(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value
