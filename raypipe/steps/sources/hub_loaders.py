"""I read the rows that a pipeline starts from out of datasets: on the Hugging Face Hub, or saved on disk.

I do not know how a dataset is opened; that stands in `hub_datasets`, which loads when one is touched. Where a dataset
is stored changes no row's identity: a part is named after its config and split alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, field_validator, model_validator

from raypipe.contracts.step import Columns, Source, Unit
from raypipe.errors import InputError
from raypipe.security.dataset_notes import is_name
from raypipe.security.permissions import HUB, current_permissions, is_path
from raypipe.steps.late_options import missing_option

if TYPE_CHECKING:
    import pyarrow as pa

    from raypipe.steps.sources.hub_datasets import Place

_BATCH_ROWS = 1024
_MISSING = "needs the package 'datasets', which is not installed; install it: pip install 'raypipe[hub]'"


class DatasetSource(Source):
    """Base of the sources that the `datasets` library opens."""

    place_option: ClassVar[str]
    """The option that says where the dataset is; it may be given when the pipeline is run."""

    num_examples: int | None = Field(default=None, ge=1)
    """Most rows."""
    storage_options: dict[str, Any] | None = Field(default=None, exclude=True, repr=False)
    """What the file system of a remote dataset needs; it may hold secrets and is written nowhere."""
    batch_size: int = Field(default=50, ge=1)
    """Rows read at a time, no fewer than 1,024."""

    @field_validator("storage_options")
    @classmethod
    def _are_allowed(cls, options: dict[str, Any] | None) -> dict[str, Any] | None:
        if options is not None and (permissions := current_permissions()) is not None:
            permissions.check_trusted(options, "storage_options")
        return options

    def place(self) -> tuple[Place, str]:
        """Where the dataset is, and the split to read. Raises InputError when it is not there."""
        raise NotImplementedError

    def problems(self) -> list[str]:
        found = [*super().problems(), *missing_option(self, self.place_option)]
        return found if find_spec("datasets") is not None else [*found, _MISSING]

    def units(self) -> list[Unit]:
        for problem in missing_option(self, self.place_option):
            raise InputError(f"step {self.name or type(self).__name__!r} {problem}")
        place, split = self.place()
        parts = (place.config, re.sub(r"\[[^]]*\]", "", split))
        return [Unit("/".join(part for part in parts if part), place.path)]

    def columns(self) -> Columns:
        from raypipe.steps.sources.hub_datasets import columns_of

        try:
            return None if missing_option(self, self.place_option) else columns_of(*self.place())
        except InputError:
            return None

    def row_count(self) -> int | None:
        from raypipe.steps.sources.hub_datasets import count_rows

        count = None if missing_option(self, self.place_option) else count_rows(*self.place())
        return count if count is None or self.num_examples is None else min(count, self.num_examples)

    def read(self, unit: Unit) -> Iterator[pa.Table]:
        from raypipe.steps.sources.hub_datasets import tables

        left = self.num_examples
        batch_rows = min(max(self.batch_size, _BATCH_ROWS), left or _BATCH_ROWS)
        place, split = self.place()
        for table in tables(place, split, self.is_streamed, batch_rows):
            yield table if left is None else table.slice(0, left)
            left = None if left is None else left - table.num_rows
            if left is not None and left <= 0:
                return

    @property
    def is_streamed(self) -> bool:
        """Whether rows are downloaded as they are read."""
        return False


class LoadDataFromHub(DatasetSource):
    """Rows of a dataset on the Hugging Face Hub, or in a folder: of data files, or saved by `save_to_disk`.

    `HF_TOKEN` opens private datasets.
    """

    place_option: ClassVar[str] = "repo_id"

    repo_id: str | None = None
    """`owner/name`, or the path of a folder."""
    split: str = "train"
    """Also a part of one, or several: `train[:10%]+test`."""
    config: str | None = None
    """Needed when the dataset has several."""
    revision: str | None = None
    """Branch, tag or commit; a commit stays the same."""
    streaming: bool = False
    """Download rows as they are read, instead of all before the first."""

    @field_validator("repo_id")
    @classmethod
    def _is_allowed(cls, name: str | None) -> str | None:
        permissions = current_permissions()
        if name is not None and permissions is not None:
            if is_path(name):
                permissions.check_folder(name, "repo_id")
            elif name not in permissions.trusted:
                permissions.check_host(HUB, "repo_id")
        return name

    @property
    def is_streamed(self) -> bool:
        return self.streaming

    def problems(self) -> list[str]:
        is_whole = not set("[+") & set(self.split) and self.split != "all"
        hint = "name one split and use num_examples, or leave out streaming"
        said = [] if is_whole or not self.streaming else [f"cannot stream the split {self.split!r}; {hint}"]
        return [*super().problems(), *said]

    def place(self) -> tuple[Place, str]:
        from raypipe.steps.sources.hub_datasets import Place, chosen_split, holds_saved

        path = os.path.expanduser(self.repo_id or "")
        place = Place(path, self.config, self.revision, holds_saved(path), self.storage_options)
        return place, chosen_split(place, self.split)


class LoadDataFromDisk(DatasetSource):
    """Rows of a dataset that `save_to_disk` wrote, with or without splits, or of one config of a distiset."""

    place_option: ClassVar[str] = "dataset_path"

    dataset_path: str | None = None
    split: str | None = None
    """By default the only one."""
    is_distiset: bool = False
    """The folder has a dataset for each config, as distilabel writes it."""
    config: str | None = None
    """Of a distiset; by default the only one."""

    @field_validator("dataset_path", mode="before")
    @classmethod
    def _is_path(cls, value: Any) -> Any:
        return os.fspath(value) if isinstance(value, os.PathLike) else value

    @field_validator("dataset_path")
    @classmethod
    def _is_allowed(cls, path: str | None) -> str | None:
        if path is not None and (permissions := current_permissions()) is not None:
            permissions.check_folder(path, "dataset_path")
        return path

    @model_validator(mode="after")
    def _is_config_allowed(self) -> Self:
        if self.config is not None and not is_name(self.config):
            raise ValueError(f"config: {self.config!r} is no folder in that of the distiset; write its name alone")
        return self

    def problems(self) -> list[str]:
        said = (
            [] if self.config is None or self.is_distiset else ["has a config, but no distiset; write is_distiset=True"]
        )
        return [*super().problems(), *said]

    def place(self) -> tuple[Place, str]:
        from raypipe.steps.sources.hub_datasets import Place, chosen_split

        path, config = os.path.expanduser(self.dataset_path or ""), None
        if self.is_distiset:
            config = self.config or _only_config(path)
            path = f"{path.rstrip('/')}/{config}"
        place = Place(path, config, is_saved=True, options=self.storage_options)
        return place, chosen_split(place, self.split)


def _only_config(folder: str) -> str:
    """The one config of a distiset. Raises InputError."""
    from raypipe.steps.sources.hub_datasets import holds_saved

    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    found = [name for name in names if holds_saved(os.path.join(folder, name))]
    if len(found) == 1:
        return found[0]
    listed = ", ".join(map(repr, found)) or "none"
    raise InputError(f"distiset {folder!r} has {len(found)} configs ({listed}); name the one to read with config")
