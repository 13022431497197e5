"""Says in a few lines what a run did and where its rows are.

Knows nothing of how it ran: everything is in the manifest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from raypipe.calls.damage import Damage
from raypipe.cli.layout import columns, dollars, duration, number, rows, shown_path, some
from raypipe.results import Result


def summary(result: Result) -> list[str]:
    """Time and money in the first line, then counts for each step, the datasets and how to load them."""
    manifest = result.manifest
    lines = [f"{manifest['pipeline']}: {_spent(manifest)}", ""]
    # In = done + failed + filtered, and out is what the done rows became.
    lines += columns([_step_cells(name, figures) for name, figures in manifest["steps"].items()], left=["step"])
    lines.append("")
    for leaf, dataset in manifest["leaves"].items():
        lines.append(f"{rows(dataset['rows'])} of {leaf!r} in {shown_path(result.path / dataset['path'])}/")
    for dataset in manifest["leaves"].values():
        files = f"{shown_path(result.path / dataset['path'])}/*.parquet"
        lines.append(f'  datasets.load_dataset("parquet", data_files="{files}")')
    lines += _refused(manifest)
    return lines + [Damage(**damage).describe() for damage in manifest.get("call_log", {}).get("damaged", ())]


def _refused(manifest: Mapping[str, Any]) -> list[str]:
    """What is to be said of calls that were refused, in a run or a retry."""
    count = sum(model.get("calls_refused", 0) for model in manifest["models"].values())
    advice = "a refusal is an answer and is not asked again; change the prompt or the model, or retry with --ask-again"
    return [f"{number(count)} call{'s' * (count != 1)} refused: {advice}"] if count else []


def failed_rows(result: Result) -> str:
    """How many rows failed and where to learn why; empty when none did."""
    if not result.failed_rows:
        return ""
    return f"{rows(result.failed_rows)} failed; why: raypipe failures {shown_path(result.path)}"


def retried(before: Result, after: Result) -> list[str]:
    """How many rows failed before and after, time and money of the retry, and where the other rows are."""
    if before.manifest == after.manifest:
        return [f"no row failed in {shown_path(after.path)}, so there was nothing to retry"]
    retries = after.manifest.get("retries") or [after.manifest]
    lines = [
        f"{rows(before.failed_rows)} failed before, {number(after.failed_rows)} after",
        f"retried in {_spent(retries[-1])}",
    ]
    for leaf, dataset in after.manifest["leaves"].items():
        lines.append(f"{rows(dataset['rows'])} of {leaf!r} in {shown_path(after.path / dataset['path'])}/")
    return lines + _refused(retries[-1]) + [line for line in [failed_rows(after)] if line]


def _step_cells(name: str, figures: Mapping[str, Any]) -> dict[str, str]:
    asks = figures["model"] is not None
    return {
        "step": name,
        "in": number(figures["rows_in"]),
        "done": number(figures["rows_done"]),
        "failed": some(figures["rows_failed"]),
        "filtered": some(figures["rows_filtered"]),
        "out": number(figures["rows_out"]),
        "calls": number(figures["calls_sent"]) if asks else "",
        "from log": some(figures["calls_cached"]),
        "refused": some(figures.get("calls_refused", 0)),
        "tokens in": some(figures["input_tokens"]),
        "tokens out": some(figures["output_tokens"]),
        "cost": dollars(figures["cost_usd"]) if asks else "",
        "estimated": some(figures.get("calls_estimated", 0)),
    }


def _spent(manifest: Mapping[str, Any]) -> str:
    models = list(manifest["models"].values())
    words = [duration(manifest["wall_s"])]
    if models:
        legs: Sequence[Mapping[str, Any]] = manifest.get("legs", ())
        spent = legs[-1:] or models
        cached = sum(model["calls_cached"] for model in models)
        words.append(_sent(spent))
        words += [f"{number(cached)} answered from the log"] if cached else []
        words.append(total_cost([one["cost_usd"] for one in spent]) + _estimated(spent))
        if any(leg["calls_sent"] for leg in legs[:-1]):
            total = [manifest["spent"]]
            words[-1] += f"; all {number(len(legs))} runs: {_sent(total)}, {total_cost([total[0]['cost_usd']])}"
            words[-1] += _estimated(total)
    return ", ".join(words)


def _sent(spent: Sequence[Mapping[str, Any]]) -> str:
    sent = sum(one["calls_sent"] for one in spent)
    return f"{number(sent)} call{'s' * (sent != 1)} sent"


def _estimated(models: Sequence[Mapping[str, Any]]) -> str:
    """How much of what models cost is not known: it is the most that it can be."""
    calls = sum(model.get("calls_estimated", 0) for model in models)
    usd = sum(model.get("estimated_usd", 0.0) for model in models)
    share = f"{dollars(usd)} " if usd else ""
    return f" (of which {share}estimated, for {number(calls)} call{'s' * (calls != 1)})" if calls else ""


def total_cost(costs: list[float | None]) -> str:
    """The sum; what has no known price is said."""
    known = [cost for cost in costs if cost is not None]
    if len(known) == len(costs):
        return dollars(sum(known))
    return f"{dollars(sum(known))} and calls of unknown price" if any(known) else dollars(None)
