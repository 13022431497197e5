"""Reads the rows that a pipeline starts from out of data files, under distilabel's names for the options.

Knows nothing of how files are found and read.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from raypipe.contracts.step import Unit
from raypipe.errors import InputError
from raypipe.steps.idle_options import warn_idle
from raypipe.steps.late_options import missing_option
from raypipe.steps.sources.loaders import FileSource, plain_paths

FileType = Literal["csv", "tsv", "json", "jsonl", "parquet"]

_KINDS = {"json": ("json", "lines"), "jsonl": ("lines",)}


class LoadDataFromFileSystem(FileSource):
    """Rows from data files, as `LoadDataFromFiles` reads them.

    A file that cannot be read as rows, or paths without a file of `filetype`, stop the run with an InputError.
    """

    path_option: ClassVar[str] = "data_files"

    data_files: Annotated[str | list[str] | None, BeforeValidator(plain_paths)] = None
    """A file, a folder, a glob or a list of them; it may be given when the pipeline is run."""
    filetype: FileType | None = None
    """Read only files of this type; JSON lines are `json` too."""
    split: Literal["train"] = "train"
    """Files have no other split."""
    streaming: bool = True
    """Files are always streamed: read as their rows are needed. `False` changes nothing, and a warning says so."""
    batch_size: int = Field(default=50, ge=1)
    """Changes nothing, and a warning says so: files are read in batches of 4,096 rows."""

    @model_validator(mode="after")
    def _warn_of_idle_options(self) -> Self:
        if "batch_size" in self.model_fields_set:
            warn_idle("LoadDataFromFileSystem", "batch_size", "files are read in batches of 4,096 rows")
        if not self.streaming:
            warn_idle("LoadDataFromFileSystem", "streaming", "files are always read as their rows are needed")
        return self

    def problems(self) -> list[str]:
        return [*super().problems(), *missing_option(self, "data_files")]

    def find_files(self) -> list[Unit]:
        from raypipe.steps.files.locate import kind_of

        for problem in missing_option(self, "data_files"):
            raise InputError(f"step {self.name or type(self).__name__!r} {problem}")
        units = super().find_files()
        if self.filetype is None:
            return units
        kinds = _KINDS.get(self.filetype, (self.filetype,))
        kept = [unit for unit in units if kind_of(unit.location) in kinds]
        if not kept:
            listed = ", ".join(repr(path) for path in self.paths())
            raise InputError(f"there is no {self.filetype} file in {listed}; change data_files or leave out filetype")
        return kept
