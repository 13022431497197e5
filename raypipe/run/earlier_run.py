"""Keeps what an earlier run left in a folder from being replaced by less, or by something else, unless that is wanted.

Knows manifests alone: nothing of how rows are made or written.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from raypipe.calls.index import index_with_segments, load_index
from raypipe.errors import InputError, OutputError, RaypipeError, RowsKeptError
from raypipe.execution.context import RunOptions
from raypipe.plan.plan import Plan
from raypipe.storage.paths import AnyPath
from raypipe.storage.remote_run_folder import AnyRunFolder, run_folder_at


def check_same_pipeline(folder: AnyRunFolder, plan: Plan) -> None:
    """Raises OutputError where the rows of another pipeline stand in a folder.

    It is the same while it has its name, and its last steps then and now are steps of the other: one may be put behind
    the last, or taken away.
    """
    before = folder.committed()
    leaves = _rows_by_leaf(before)
    if not sum(leaves.values()):
        return
    steps = plan.graph.steps.keys()
    is_same = not steps.isdisjoint(leaves) or not set(plan.graph.leaves).isdisjoint(before.get("steps", ()))
    if before.get("pipeline") == plan.name and is_same:
        return
    there = ", ".join(f"{rows:,} of {leaf!r}" for leaf, rows in leaves.items())
    what = f"holds rows of the pipeline {before.get('pipeline')!r} ({there})"
    now = f"and this is {plan.name!r}, which writes {', '.join(map(repr, plan.graph.leaves))}"
    way = "name another folder with --out, or put this in its place with --fresh --yes (in Python fresh=True)"
    raise OutputError(f"the output folder {folder.path} {what}, {now}; {way}")


def check_not_fewer(
    path: AnyPath, before: Mapping[str, Any], manifest: Mapping[str, Any], options: RunOptions, reason: str
) -> None:
    """Raises where rows failed, or none came out, and fewer rows would take the place of more; else says that they do.

    `reason`: why the first row failed. Raises RowsKeptError, InputError.
    """
    lost, emptied = compare_rows(before, manifest)
    if not lost:
        return
    failed = manifest["failures"]["rows"]
    was, now = (sum(_rows_by_leaf(one).values()) for one in (before, manifest))
    numbers = f"{now:,} rows were finished where {path} has {was:,}"
    if not options.allow_fewer and (emptied or failed > options.max_failed_rows):
        way = "mend that and run the same again, no call is sent twice; or replace them all the same with --allow-fewer"
        kept = f"{numbers}, which are left as they are; {way} (in Python allow_fewer=True)"
        error: RaypipeError = RowsKeptError(f"{failed:,} rows failed ({reason}): {kept}")
        raise error if failed else InputError(f"no row failed, and yet {kept}")
    logging.getLogger("raypipe").warning("%s before: the dataset is replaced by a shorter one", numbers)


def compare_rows(before: Mapping[str, Any], manifest: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether there are fewer finished rows than before, in all or of one leaf; and whether there are none instead."""
    was, now = _rows_by_leaf(before), _rows_by_leaf(manifest)
    pairs = [(sum(was.values()), sum(now.values())), *((was[leaf], now[leaf]) for leaf in was.keys() & now.keys())]
    return any(made < had for had, made in pairs), any(not made and had for had, made in pairs)


def describe_what_fresh_drops(out: AnyPath, calls: AnyPath | None) -> str:
    """What a run that starts over takes away or makes anew: rows, and calls with what they cost; empty for nothing.

    A call log outside of `out` stays. Raises OutputError when the folder is no run's, or a store cannot be used,
    InfrastructureError when it cannot be reached.
    """
    folder = run_folder_at(out)
    folder.check()
    before = folder.committed()
    rows = sum(_rows_by_leaf(before).values())
    words = [f"replace {rows:,} rows of the pipeline {before['pipeline']!r}"] if rows else []
    if calls is None:
        known = len(index_with_segments(load_index(folder.calls), folder.calls, "*"))
        words += [f"drop {known:,} answered calls{_cost(before)}"] if known else []
    return f"--fresh would {' and '.join(words)} in {out}" if words else ""


def _cost(manifest: Mapping[str, Any]) -> str:
    """What the manifest knows of the cost of calls."""
    models = list(manifest.get("models", {}).values())
    tokens = sum(model["input_tokens"] + model["output_tokens"] for model in models)
    usd = sum(model["cost_usd"] or 0.0 for model in models)
    words = [*([f"{tokens:,} tokens"] if tokens else []), *([f"${usd:,.2f}"] if usd else [])]
    return f" ({', '.join(words)} as far as the manifest knows)" if words else ""


def _rows_by_leaf(manifest: Mapping[str, Any]) -> dict[str, int]:
    return {leaf: entry.get("rows", 0) for leaf, entry in manifest.get("leaves", {}).items()}
