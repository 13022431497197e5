"""I am what a run left behind: datasets by leaf, failures, manifest."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from raypipe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class Rows:
    """A folder of Parquet files, read when asked."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def to_arrow(self) -> pa.Table:
        """All rows, in the order of their sources."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pa.concat_tables([pq.ParquetFile(path).read() for path in sorted(self.path.glob("part-*.parquet"))])

    def to_pandas(self) -> pd.DataFrame:
        """All rows as a pandas frame; needs pandas."""
        return self.to_arrow().to_pandas()

    def __len__(self) -> int:
        import pyarrow.parquet as pq

        return sum(pq.read_metadata(path).num_rows for path in self.path.glob("part-*.parquet"))

    def __repr__(self) -> str:
        return f"Rows({str(self.path)!r})"


class Result(Mapping[str, Rows]):
    """A committed run: leaf name → rows. Raises InputError when the folder holds none."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.manifest: dict[str, Any] = orjson.loads((path / "manifest.json").read_bytes())
        except (OSError, ValueError):
            raise InputError(f"{path} holds no committed run; run a pipeline with --out {path} first") from None
        self.failures = Rows(path / "failures")

    def __getitem__(self, leaf: str) -> Rows:
        if leaf not in self.manifest["leaves"]:
            raise KeyError(leaf)
        return Rows(self.path / "data" / leaf)

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest["leaves"])

    def __len__(self) -> int:
        return len(self.manifest["leaves"])

    @property
    def failed_rows(self) -> int:
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
        found = table.column("kind").to_pylist()
        unknown = sorted(set(kinds) - set(found))
        if unknown:
            there = ", ".join(sorted(set(found))) or "none"
            raise InputError(f"{self.path} has no failures of kind {', '.join(unknown)}; there are: {there}")
        sources = zip(table.column("_source_id").to_pylist(), table.column("_row_id").to_pylist(), strict=True)
        return frozenset(
            source or row for kind, (source, row) in zip(found, sources, strict=True) if not kinds or kind in kinds
        )

    def __repr__(self) -> str:
        return f"Result({str(self.path)!r}, leaves={list(self)})"
