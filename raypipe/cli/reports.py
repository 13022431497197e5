"""Describes a pipeline, a dry run and a run's failures, as lines of text. Knows nothing of how they came about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from raypipe.cli.layout import columns, dollars, number, one_line, rows, shown_path, some
from raypipe.contracts.step import Columns, Shape
from raypipe.errors import SpecError
from raypipe.graph.graph import Graph
from raypipe.pipeline import DryRun, Pipeline
from raypipe.plan.plan import Plan
from raypipe.results import Result
from raypipe.row import RESERVED
from raypipe.run.checks import check_models
from raypipe.storage.paths import open_parquet_at, reading

_WIDTH = 100


def soundness(plan: Plan) -> list[str]:
    """One line for a pipeline that passed every check."""
    steps, stages = len(plan.graph.as_shown.steps), len(plan.stages)
    counted = f"{steps} step{'s' * (steps != 1)} in {stages} stage{'s' * (stages != 1)}"
    return [f"{plan.name} is sound: {counted}, writes {', '.join(f'data/{leaf}/' for leaf in plan.graph.leaves)}"]


def description(pipeline: Pipeline) -> list[str]:
    """The steps with their types, models and columns."""
    graph = pipeline.graph().as_shown
    lines = [pipeline.name, *([pipeline.description.strip()] if pipeline.description else []), ""]
    for name in graph.order:
        lines += _step_lines(graph, name)
    return [*lines, f"writes {', '.join(f'data/{leaf}/' for leaf in graph.leaves)}"]


def _step_lines(graph: Graph, name: str) -> Iterator[str]:
    step = graph.steps[name]
    words = [type(step).__name__]
    if step.llm is not None:
        words.append(f"asks {step.llm.label}")
    if step.shape is not Shape.MAP:
        words.append(str(step.shape))
    if step.copies > 1:
        words.append(f"broadcast {step.copies}")
    above = graph.predecessors[name]
    yield f"{name}: {', '.join(words)}{', after ' + ', '.join(above) if above else ''}"
    before = graph.flows[above[0]].columns if above else ()
    after = graph.flows[name].columns
    if step.reads():
        yield f"  reads   {', '.join(step.reads())}"
    yield f"  {'gives' if above else 'loads'}   {_gained(before, after)}"


def _gained(before: Columns, after: Columns) -> str:
    if after is None:
        return "columns that show when it runs"
    if before is None:
        return ", ".join(after)
    gained, lost = [name for name in after if name not in before], [name for name in before if name not in after]
    words = [", ".join(gained) if gained else "no new column"]
    return "; drops ".join([*words, ", ".join(lost)] if lost else words)


def dry_run(pipeline: Pipeline, made: DryRun, source_rows: int, live: bool) -> list[str]:
    """What each step did and would ask, some rows of each leaf, some failures, and what is missing for a real run."""
    played = "asking the real models" if live else "models played by a stand-in, nothing spent"
    lines = [f"{pipeline.name}: dry run of {rows(source_rows)} of each source, {played}", ""]
    cells = [_dry_cells(name, figures, made, live) for name, figures in made.manifest["steps"].items()]
    lines += columns(cells, left=["step", "model"])
    for leaf, sample in made.samples.items():
        total = made.manifest["leaves"][leaf]["rows"]
        lines += ["", f"{leaf}: {len(sample)} of {rows(total)}"]
        lines += [line for row in sample for line in _row_lines(row)]
    failed = made.manifest["failures"]["rows"]
    if failed:
        lines += ["", f"failures: {len(made.failures)} of {rows(failed)}"]
        lines += [f"  {row['step']} ({row['kind']}): {one_line(row['message'], _WIDTH)}" for row in made.failures]
    return lines + _missing(pipeline)


def _dry_cells(name: str, figures: dict[str, Any], made: DryRun, live: bool) -> dict[str, str]:
    llm = made.models.get(name)
    calls = figures["calls_sent"] + figures["calls_cached"]
    return {
        "step": name,
        "in": number(figures["rows_in"]),
        "out": number(figures["rows_out"]),
        "failed": some(figures["rows_failed"]),
        "filtered": some(figures["rows_filtered"]),
        "calls" if live else "would call": number(calls) if llm else "",
        "model": llm.label if llm else "",
        "cost": dollars(figures["cost_usd"]) if live and llm else "",
    }


def _row_lines(row: dict[str, Any]) -> Iterator[str]:
    own = {name: value for name, value in row.items() if name not in RESERVED}
    width = max((len(name) for name in own), default=0)
    for number_of, (name, value) in enumerate(own.items()):
        yield f"  {'-' if number_of == 0 else ' '} {name.ljust(width)}  {one_line(value, _WIDTH)}"


def _missing(pipeline: Pipeline) -> list[str]:
    try:
        check_models(pipeline.plan())
    except SpecError as error:
        return ["", *(f"before a real run: {violation}" for violation in error.violations)]
    return []


def failures(result: Result) -> list[str]:
    """Failed rows by step and kind, most frequent first, each with one message and one row."""
    groups = _failure_groups(result)
    if not groups:
        return [f"no row failed in {shown_path(result.path)}"]
    lines = [f"{rows(result.failed_rows)} failed in {shown_path(result.path)}"]
    for (step, kind), (count, message, row_id) in sorted(groups.items(), key=lambda item: -item[1][0]):
        lines += ["", f"{number(count)}  step {step!r}, {kind}", f"  {one_line(message, 4 * _WIDTH)}"]
        lines.append(f"  for example row {row_id}")
    lines += ["", f"all of them, with their columns: {shown_path(result.failures.path)}/*.parquet"]
    return lines


def _failure_groups(result: Result) -> dict[tuple[str, str], tuple[int, str, str]]:
    """By step and kind: how many, the first message, its row."""
    groups: dict[tuple[str, str], tuple[int, str, str]] = {}
    names = ["step", "kind", "message", "_row_id"]
    for path in result.failures.files:
        with reading(path):
            for batch in open_parquet_at(path).iter_batches(columns=names):
                columns_of_batch = (batch.column(name).to_pylist() for name in names)
                for step, kind, message, row_id in zip(*columns_of_batch, strict=True):
                    count, *first = groups.get((step, kind), (0, message, row_id))
                    groups[step, kind] = (count + 1, first[0], first[1])
    return groups
