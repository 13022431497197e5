"""Reads the rows that a pipeline starts from out of datasets: on the Hugging Face Hub, or saved on disk.

Knows nothing of how a dataset is opened; `hub_datasets` does, and is imported when one is touched. Where a dataset is
stored changes no row's identity: a part is named after its config and split alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from raypipe.contracts.step import Columns, Source, Unit
from raypipe.errors import InputError
from raypipe.security.dataset_notes import is_name
from raypipe.security.permissions import HUB, current_permissions, is_path
from raypipe.steps.late_options import missing_option
from raypipe.steps.sources.loaders import plain_paths

if TYPE_CHECKING:
    import pyarrow as pa

    from raypipe.steps.sources.hub_datasets import DatasetLocation

_BATCH_ROWS = 1024
_MISSING = "needs the package 'datasets', which is not installed; install it: pip install 'raypipe[hub]'"


class DatasetSource(Source):
    """Base of the sources that the `datasets` library opens."""

    location_option: ClassVar[str]
    """The option that names the dataset; it may be given when the pipeline is run."""

    num_examples: int | None = Field(default=None, ge=1)
    """Most rows."""
    storage_options: dict[str, Any] | None = Field(default=None, exclude=True, repr=False)
    """Options of the file system of a remote dataset; they may hold secrets and are written nowhere."""
    batch_size: int = Field(default=50, ge=1)
    """Rows read at a time, if more than 1,024; fewer are never read."""

    @field_validator("storage_options")
    @classmethod
    def _check_storage_options(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        if options is not None and (permissions := current_permissions()) is not None:
            permissions.check_trusted(options, "storage_options")
        return options

    def locate(self) -> tuple[DatasetLocation, str]:
        """Where the dataset is, and the split to read. Raises InputError when it is not there."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        found = [*super().problems(), *missing_option(self, self.location_option)]
        return found if find_spec("datasets") is not None else [*found, _MISSING]

    def units(self) -> list[Unit]:
        for problem in missing_option(self, self.location_option):
            raise InputError(f"step {self.name or type(self).__name__!r} {problem}")
        location, split = self.locate()
        parts = (location.config, re.sub(r"\[[^]]*\]", "", split))
        return [Unit("/".join(part for part in parts if part), location.path)]

    def columns(self) -> Columns:
        from raypipe.steps.sources.hub_datasets import columns_of

        try:
            return None if missing_option(self, self.location_option) else columns_of(*self.locate())
        except InputError:
            return None

    def row_count(self) -> int | None:
        from raypipe.steps.sources.hub_datasets import count_rows

        count = None if missing_option(self, self.location_option) else count_rows(*self.locate())
        return count if count is None or self.num_examples is None else min(count, self.num_examples)

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        from raypipe.steps.sources.hub_datasets import tables

        left = self.num_examples
        batch_rows = min(max(self.batch_size, _BATCH_ROWS), left or _BATCH_ROWS)
        for table in tables(*self.locate(), batch_rows):
            yield table if left is None else table.slice(0, left)
            left = None if left is None else left - table.num_rows
            if left is not None and left <= 0:
                return


class LoadDataFromHub(DatasetSource):
    """Rows of a dataset on the Hugging Face Hub, or in a folder: of data files, or saved by `save_to_disk`.

    The environment variable `HF_TOKEN` opens private datasets. Needs the package `datasets` (`raypipe[hub]`); a
    dataset, config or split that cannot be read stops the run with an InputError.
    """

    location_option: ClassVar[str] = "repo_id"

    repo_id: str | None = None
    """`owner/name`, or the path of a folder."""
    split: str = "train"
    """A split, a part of one, or several: `train[:10%]+test`."""
    config: str | None = None
    """Needed where the dataset has several."""
    revision: str | None = None
    """Branch, tag or commit; a commit stays the same."""
    streaming: bool = False
    """Download rows as they are read, instead of all before the first."""

    @field_validator("repo_id")
    @classmethod
    def _check_permissions(cls, name: str | None) -> str | None:
        permissions = current_permissions()
        if name is not None and permissions is not None:
            if is_path(name):
                permissions.check_folder(name, "repo_id")
            elif name not in permissions.trusted:
                permissions.check_host(HUB, "repo_id")
        return name

    def problems(self) -> list[str]:
        found = super().problems()
        if self.streaming and (set("[+") & set(self.split) or self.split == "all"):
            hint = "name one split and use num_examples, or leave out streaming"
            found.append(f"cannot stream the split {self.split!r}; {hint}")
        return found

    def locate(self) -> tuple[DatasetLocation, str]:
        from raypipe.steps.sources.hub_datasets import DatasetLocation, choose_split, is_saved_dataset

        path = os.path.expanduser(self.repo_id or "")
        location = DatasetLocation(
            path, self.config, self.revision, is_saved_dataset(path), self.storage_options, self.streaming
        )
        return location, choose_split(location, self.split)


class LoadDataFromDisk(DatasetSource):
    """Rows of a dataset that `save_to_disk` wrote, with or without splits, or of one config of a distiset.

    Needs the package `datasets` (`raypipe[hub]`); a dataset or split that cannot be read stops the run with an
    InputError.
    """

    location_option: ClassVar[str] = "dataset_path"

    dataset_path: Annotated[str | None, BeforeValidator(plain_paths)] = None
    """The folder; it may be given when the pipeline is run."""
    split: str | None = None
    """By default the only one."""
    is_distiset: bool = False
    """Whether the folder has a dataset for each config, as distilabel writes it."""
    config: str | None = None
    """A config of a distiset; by default the only one."""

    @model_validator(mode="after")
    def _check_folder(self) -> Self:
        if self.dataset_path is not None and (permissions := current_permissions()) is not None:
            permissions.check_folder(self.dataset_path, "dataset_path")
        if self.config is not None and not is_name(self.config):
            raise ValueError(f"config: {self.config!r} is not a folder of the distiset; write its name alone")
        return self

    def problems(self) -> list[str]:
        found = super().problems()
        if self.config is not None and not self.is_distiset:
            found.append("has a config, but no distiset; write is_distiset=True")
        return found

    def locate(self) -> tuple[DatasetLocation, str]:
        from raypipe.steps.sources.hub_datasets import DatasetLocation, choose_split

        path, config = os.path.expanduser(self.dataset_path or ""), None
        if self.is_distiset:
            config = self.config or _only_config(path)
            path = f"{path.rstrip('/')}/{config}"
        location = DatasetLocation(path, config, is_saved=True, storage_options=self.storage_options)
        return location, choose_split(location, self.split)


def _only_config(folder: str) -> str:
    """The one config of a distiset. Raises InputError."""
    from raypipe.steps.sources.hub_datasets import is_saved_dataset

    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [name for name in names if is_saved_dataset(os.path.join(folder, name))]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(repr, found)) or "none"
    raise InputError(f"distiset {folder!r} has {len(found)} configs ({listed}); name the one to read with config")
