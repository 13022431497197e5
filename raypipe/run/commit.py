"""Puts what a run made in the place of what was in its folder, whole or not at all."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pyarrow as pa

from raypipe.errors import InputError
from raypipe.execution.conductor.batches import FAILURE_SCHEMA, check_parts
from raypipe.execution.context import RunOptions
from raypipe.execution.setup import Outcome
from raypipe.plan.plan import FAILURES, Plan, Sink
from raypipe.run.earlier_run import check_not_fewer, compare_rows
from raypipe.run.leaf_schema import leaf_schema
from raypipe.run.merge import rows_of, rows_with
from raypipe.storage.digests import is_unchanged
from raypipe.storage.paths import open_parquet_at, parse_path
from raypipe.storage.remote_run_folder import AnyRunFolder
from raypipe.storage.tables import to_output_columns, unify_file_schemas, write_dataset


class Commit:
    """The end of a run. `retried`: source rows (hexadecimal identities) whose rows alone are replaced."""

    def __init__(
        self,
        folder: AnyRunFolder,
        plan: Plan,
        spec: bytes,
        options: RunOptions,
        retried: frozenset[str] | None = None,
    ) -> None:
        self.folder = folder
        self._options = options
        self._plan = plan
        self._spec = spec
        self._retried = retried
        self.complete: Callable[[dict[str, Any]], dict[str, Any]] = lambda manifest: manifest
        """Puts into the manifest what all runs into the folder spent."""

    @property
    def only(self) -> frozenset[bytes] | None:
        """Identities of the source rows to work on; `None`: all."""
        return None if self._retried is None else frozenset(map(bytes.fromhex, self._retried))

    def __call__(self, outcome: Outcome, manifest: dict[str, Any]) -> bool:
        """Whether the rows were committed: those of a run that was stopped never take the place of more.

        Completes the manifest. Raises OSError, InputError when rows to be retried are no longer in the input,
        OutputError when another run has taken the folder, RowsKeptError when rows failed and there were more before.
        """
        folder, before = self.folder, self.folder.committed()
        if self._retried is not None and outcome.halted_for:
            folder.clear()
            return False
        self._check_sources(manifest)
        self.check_carried()
        (folder.work / "data").mkdir()
        for leaf in self._plan.graph.leaves:
            manifest["leaves"][leaf] = self._write(
                outcome, Sink("leaf", leaf), f"data/{leaf}", partial(leaf_schema, self._plan.graph, leaf)
            )
        no_failures = to_output_columns(FAILURE_SCHEMA.empty_table()).schema
        manifest["failures"] = self._write(outcome, FAILURES, "failures", lambda: no_failures)
        is_less = _ended(manifest) < _ended(before) or compare_rows(before, manifest)[0]
        if outcome.halted_for and is_less:
            folder.clear()
            return False
        if is_less:
            check_not_fewer(folder.path, before, manifest, self._options, self._first_reason(outcome))
        folder.commit(
            self.complete(self._merged(before, manifest)), self._spec, keeps_artifacts=self._retried is not None
        )
        return True

    def _write(self, outcome: Outcome, sink: Sink, name: str, empty: Callable[[], pa.Schema]) -> dict[str, Any]:
        """The entry of the manifest. `empty`: the schema of no row; to know it, a source may have to be read."""
        parts = [part for result in outcome.results for part in result.parts if part.sink == sink]
        check_parts(parts)
        before = [] if self._retried is None else list(self.folder.files(name))
        paths = [*before, *(parse_path(part.path) for part in parts)]
        schema = unify_file_schemas(paths) if paths else empty()
        rows = rows_of(parts, schema, self.folder.work / "merged" / name)
        if self._retried is not None:
            rows = rows_with(before, rows, self._retried, schema)
        count, digests = write_dataset(rows, self.folder.work / name, schema, self._options.bounds)
        return {"rows": count, "path": name, "digests": digests}

    def check_carried(self) -> None:
        """Raises InputError where a file whose rows a retry would carry over is not what a run wrote."""
        if self._retried is None:
            return
        manifest = self.folder.committed()
        for entry in [*manifest["leaves"].values(), manifest["failures"]]:
            for path, digest in zip(self.folder.files(entry["path"]), entry.get("digests", ()), strict=False):
                if not is_unchanged(path, digest):
                    problem = "is damaged: what is in it is not what the run wrote; a retry would carry it over, so"
                    way = "nothing was changed: run the whole pipeline again, which sends no answered call again"
                    raise InputError(f"the file {path} {problem} {way}")

    def _first_reason(self, outcome: Outcome) -> str:
        """Why the first of the failed rows failed."""
        parts = sorted(
            (part for result in outcome.results for part in result.parts if part.sink == FAILURES),
            key=lambda part: part.position,
        )
        if not parts:
            return ""
        [row] = open_parquet_at(parts[0].path).read(["step", "message"]).slice(0, 1).to_pylist()
        return f"the first at step {row['step']!r}: {row['message']}"

    def _check_sources(self, manifest: Mapping[str, Any]) -> None:
        if self._retried is None:
            return
        entries = [self._plan.graph.shown(stage.entry) for stage in self._plan.stages]
        missing = len(self._retried) - sum(manifest["steps"][entry]["rows_in"] for entry in entries)
        if missing > 0:
            problem = f"{missing} of the {len(self._retried)} source rows to be retried are no longer in the input"
            raise InputError(f"{problem}; nothing was changed, run the whole pipeline instead")

    def _merged(self, before: dict[str, Any], manifest: dict[str, Any]) -> dict[str, Any]:
        """Of a retry, the manifest of the run before with what the retry did added."""
        if self._retried is None:
            return manifest
        retry = {name: manifest[name] for name in ("started_at", "ended_at", "wall_s", "steps", "models")}
        retries = [*before.get("retries", []), retry | {"source_rows": len(self._retried)}]
        current = {
            name: manifest[name] for name in ("max_failed_rows", "max_failure_rate", "leaves", "failures", "versions")
        }
        return before | current | {"retries": retries}


def _ended(manifest: Mapping[str, Any]) -> int:
    """Rows that came to an end, well or not."""
    leaves = manifest.get("leaves", {}).values()
    return sum(leaf["rows"] for leaf in leaves) + manifest.get("failures", {}).get("rows", 0)
