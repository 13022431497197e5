"""Gives what a run left: datasets by leaf, failures, manifest. Knows nothing of how a run is made."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any, TypedDict, Unpack, cast

import orjson

from raypipe.contracts.distilabel_names import refuse_options
from raypipe.contracts.model_pool import ModelOrPool
from raypipe.errors import InputError, SpecError
from raypipe.security.dataset_notes import is_name
from raypipe.storage.artifacts import ARTIFACTS, Artifact, list_artifacts
from raypipe.storage.paths import (
    AnyPath,
    RemotePath,
    check_reachable,
    explain_os_error,
    open_parquet_at,
    parse_path,
    reading,
)
from raypipe.storage.run_files import list_files, list_remote_artifacts, local_copy
from raypipe.storage.run_folder import settle

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    from datasets import Dataset, DatasetDict


_SHOWN_ROWS = 3


class PushOptions(TypedDict, total=False):
    """More options of `push_to_hub`."""

    license: str | None
    """The licence that the card names."""
    commit_message: str | None
    """The message of the commit on the hub."""


class Rows:
    """Rows in Parquet files or in a saved Hugging Face dataset, read when they are asked for.

    `path`: their folder, here or in a store. `files`: their Parquet files, in the order of the rows.
    """

    def __init__(self, path: AnyPath, files: Sequence[AnyPath] | None = None) -> None:
        """`files`: by default those of the folder."""
        self.path = path
        self.files: Sequence[AnyPath] = sorted(path.glob("part-*.parquet")) if files is None else files

    def to_arrow(self) -> pa.Table:
        """All rows, in the order of their sources. Raises InputError for a damaged file."""
        import pyarrow as pa

        from raypipe.results.saving import read_table

        if isinstance(self.path, Path):
            return read_table(self.path)
        tables: list[pa.Table] = []
        for file in self.files:
            with reading(file):
                tables.append(open_parquet_at(file).read())
        return pa.concat_tables(tables)

    def to_datasets(self) -> Dataset:
        """All rows as a Hugging Face dataset: read from disk, or held in memory where they are in a store.

        Raises SpecError when `datasets` is not installed.
        """
        from raypipe.results.saving import table_to_dataset, to_dataset

        return to_dataset(self.path) if isinstance(self.path, Path) else table_to_dataset(self.to_arrow())

    def __getitem__(self, split: str) -> Dataset:
        """`["train"]`: all rows as a Hugging Face dataset."""
        if split != "train":
            raise KeyError(split)
        return self.to_datasets()

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame; needs pandas."""
        return self.to_arrow().to_pandas()

    def __len__(self) -> int:
        from raypipe.results.saving import count_rows

        if isinstance(self.path, Path):
            return count_rows(self.path)
        return sum(open_parquet_at(file).metadata.num_rows for file in self.files)

    def __repr__(self) -> str:
        return f"Rows({str(self.path)!r})"


class HeldRows(Rows):
    """Rows in memory, of which there is no file."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def to_arrow(self) -> pa.Table:
        """All rows."""
        return self._table

    def to_datasets(self) -> Dataset:
        """All rows as a Hugging Face dataset in memory. Raises SpecError when `datasets` is not installed."""
        from raypipe.results.saving import table_to_dataset

        return table_to_dataset(self._table)

    def __len__(self) -> int:
        return self._table.num_rows

    def __repr__(self) -> str:
        return f"HeldRows({len(self)})"


def _check_manifest(path: AnyPath, manifest: Any) -> None:
    """Raises InputError for what is not a manifest, or names files outside the folder."""
    there = cast("dict[str, Any]", manifest if isinstance(manifest, dict) else {})
    leaves, failures = there.get("leaves"), there.get("failures")
    is_sound = isinstance(leaves, dict) and all(map(is_name, cast("dict[str, Any]", leaves)))
    for entry in [failures, *(cast("dict[str, Any]", leaves).values() if isinstance(leaves, dict) else ())]:
        entry = cast("dict[str, Any]", entry if isinstance(entry, dict) else {})
        files = entry.get("files", [])
        for name in (entry.get("path"), *(cast("list[Any]", files) if isinstance(files, list) else [None])):
            below = PurePath(name) if isinstance(name, str) else PurePath("/")
            is_sound = is_sound and not below.is_absolute() and ".." not in below.parts
        is_sound = is_sound and isinstance(entry.get("rows"), int)
    if not (is_sound and isinstance(there.get("max_failed_rows"), int) and isinstance(there.get("origin") or {}, dict)):
        problem = "is not as a run writes it: it is damaged or something else"
        raise InputError(f"the manifest of {path} {problem}; run the pipeline again")


class DryRun(Mapping[str, Rows]):
    """What a dry run found: leaf name → rows, as in `Result`.

    `models`: the models that a real run calls, by step. `manifest`: its counts. `failures`: the first failed rows.
    """

    def __init__(
        self, models: dict[str, ModelOrPool], manifest: dict[str, Any], rows: Mapping[str, pa.Table], failures: pa.Table
    ) -> None:
        self.models = models
        self.manifest = manifest
        self.failures: list[dict[str, Any]] = failures.slice(0, _SHOWN_ROWS).to_pylist()
        self._rows = dict(rows)

    @property
    def samples(self) -> dict[str, list[dict[str, Any]]]:
        """Some rows of each leaf."""
        return {leaf: table.slice(0, _SHOWN_ROWS).to_pylist() for leaf, table in self._rows.items()}

    def __getitem__(self, leaf: str) -> Rows:
        return HeldRows(self._rows[next(iter(self._rows)) if leaf == "default" and len(self) == 1 else leaf])

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def __repr__(self) -> str:
        return f"DryRun(leaves={list(self)})"


class Result(Mapping[str, Rows]):
    """A committed run in a folder, or at an address such as `s3://bucket/folder`: leaf name → rows.

    A single leaf is `default` too. A commit that a kill cut off is finished first. Raises InputError when the folder
    holds none, OutputError when that cannot be done, OutputError or InfrastructureError when a store cannot be used.
    """

    def __init__(self, path: str | Path | RemotePath) -> None:
        self.path = path = parse_path(path)
        check_reachable(path)
        if isinstance(path, Path):
            settle(path)
        try:
            self.manifest: dict[str, Any] = orjson.loads((path / "manifest.json").read_bytes())
        except (OSError, ValueError) as error:
            if isinstance(path, RemotePath) and isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
                raise InputError(f"{path} cannot be read: {explain_os_error(error)}") from None
            raise InputError(f"{path} holds no committed run; run a pipeline with --out {path} first") from None
        _check_manifest(path, self.manifest)
        self.failures = self._rows(self.manifest["failures"])

    def _rows(self, entry: Mapping[str, Any]) -> Rows:
        """The rows of an entry of the manifest."""
        files = list_files(self.path, entry) if isinstance(self.path, RemotePath) else None
        return Rows(self.path / entry["path"], files)

    def __getitem__(self, leaf: str) -> Rows:
        if leaf == "default" and len(self) == 1:
            leaf = next(iter(self))
        if leaf not in self.manifest["leaves"]:
            raise KeyError(leaf)
        return self._rows(self.manifest["leaves"][leaf])

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest["leaves"])

    def __len__(self) -> int:
        return len(self.manifest["leaves"])

    @property
    def failed_rows(self) -> int:
        """How many rows failed at a step."""
        return self.manifest["failures"]["rows"]

    @property
    def exit_code(self) -> int:
        """0, or 3 when more rows failed than the run allowed."""
        return 3 if self.failed_rows > self.manifest["max_failed_rows"] else 0

    def failed_sources(self, kinds: Collection[str] = ()) -> frozenset[str]:
        """Identities of the source rows that failures came from, all or those of certain kinds.

        Raises InputError for a kind of which there is none.
        """
        table = self.failures.to_arrow()
        missing = {"kind", "_source_id", "_row_id"} - set(table.column_names)
        if missing:
            problem = f"have no column {', '.join(sorted(missing))}: they are damaged or something else"
            raise InputError(f"the failures in {self.failures.path} {problem}; run the pipeline again")
        found = table.column("kind").to_pylist()
        unknown = sorted(set(kinds) - set(found))
        if unknown:
            there = ", ".join(sorted(set(found))) or "none"
            raise InputError(f"{self.path} has no failures of kind {', '.join(unknown)}; there are: {there}")
        sources = zip(table.column("_source_id").to_pylist(), table.column("_row_id").to_pylist(), strict=True)
        return frozenset(
            source or row for kind, (source, row) in zip(found, sources, strict=True) if not kinds or kind in kinds
        )

    @property
    def artifacts_path(self) -> AnyPath:
        """The folder of what steps saved beside their rows: `<step>/<name>/`; missing when none did."""
        return self.path / ARTIFACTS

    @property
    def artifacts(self) -> dict[str, dict[str, Artifact[Path] | Artifact[RemotePath]]]:
        """What steps saved beside their rows, by step and name."""
        found: dict[str, dict[str, Artifact[Path] | Artifact[RemotePath]]] = {}
        path, manifest = self.path, self.manifest
        there = (
            list_remote_artifacts(path, manifest) if isinstance(path, RemotePath) else list_artifacts(path / ARTIFACTS)
        )
        for artifact in there:
            found.setdefault(artifact.step, {})[artifact.name] = artifact
        return found

    def train_test_split(
        self, train_size: float, shuffle: bool = True, seed: int | None = None
    ) -> dict[str, DatasetDict]:
        """For each leaf a `train` with the share `train_size` of its rows and a `test` with the others.

        Raises SpecError for a share that is not between 0 and 1, InputError for a leaf with too few rows.
        """
        from raypipe.results.saving import split

        with local_copy(self.path, self.manifest) as committed:
            return split(committed, train_size, shuffle=shuffle, seed=seed)

    def save_to_disk(self, path: str | Path, **options: Any) -> None:
        """Write a folder that `load_from_disk` reads back, and `datasets.load_from_disk` leaf by leaf (`data/<leaf>`).

        Artifacts, card and pipeline are in it; `options` of `Distiset.save_to_disk` are refused with what to do.

        Raises SpecError when `datasets` is not installed, OutputError when the folder holds something else.
        """
        from raypipe.results.saving import save

        refuse_options("save_to_disk", options, ["path"])
        with local_copy(self.path, self.manifest) as committed:
            save(committed, Path(path))

    @classmethod
    def load_from_disk(cls, path: str | Path) -> Result:
        """What `save_to_disk` wrote. Raises InputError when the folder holds none."""
        from raypipe.results.saving import check_saved

        check_saved(Path(path))
        return cls(Path(path))

    def push_to_hub(
        self,
        repo_id: str,
        private: bool = False,
        token: str | None = None,
        generate_card: bool = True,
        include_script: bool = False,
        **more: Unpack[PushOptions],
    ) -> str:
        """Put every leaf and the artifacts on the Hugging Face hub, in one commit; returns the address of the dataset.

        Each leaf is a configuration of its own, named `default` when it is the only one. `include_script` adds the
        Python file that is being run, as `pipeline.py`: see that it holds no secret. Without `token` it is the one
        of `hf auth login` or HF_TOKEN. Raises SpecError for an unsound name, or when `huggingface_hub` is not
        installed, InfrastructureError when the hub refuses.
        """
        from raypipe.results.hub import Upload, push

        known = list(PushOptions.__annotations__)
        refuse_options("push_to_hub", [name for name in more if name not in known], known)
        upload = Upload(repo_id, private, token, generate_card, include_script, **more)
        with local_copy(self.path, self.manifest) as committed:
            return push(committed, upload)

    def transform_columns_to_image(self, columns: str | Sequence[str]) -> None:
        """Raises SpecError: rows hold no images."""
        problem = f"rows hold no images; write to_datasets().cast_column({columns!r}, datasets.Image()) for a leaf"
        raise SpecError.of("transform_columns_to_image", problem)

    def __repr__(self) -> str:
        return f"Result({str(self.path)!r}, leaves={list(self)})"
