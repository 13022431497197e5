"""Says what a run would reuse and what it would send, and why. Sends nothing and changes nothing.

The plan is run in this process with its call log, without the right to call: rows that need an answer nobody has given
stay where they are, and for each of them the log says what it knows of its step and its identity. Functions of the
user's own are run, as they would be.
"""

from __future__ import annotations

import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raypipe.calls.compacted_file import compacted_files, read_calls
from raypipe.calls.index import index_with_segments, load_index
from raypipe.calls.remote import segments
from raypipe.calls.segments import CallOrigin, read_segment
from raypipe.execution import local
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.counts import StepCounts
from raypipe.execution.setup import RunSetup
from raypipe.execution.stopping import Stop
from raypipe.plan.plan import Plan
from raypipe.run.identity_version import read_identity_version
from raypipe.storage.paths import AnyPath, check_reachable
from raypipe.storage.remote_run_folder import run_folder_at

CHANGED = "what is sent has changed: the prompt, the options, the model or the columns that it reads"
NEW_ROW = "the log does not know these rows"
NEW_STEP = "the log has no call of this step"
NOT_CACHED = "this step asks anew in every run (use_cache: false)"


@dataclass
class StepForecast:
    """What a run would do in one step that asks a model."""

    reused: int = 0
    """Calls that the log answers."""
    to_send: Counter[str] = field(default_factory=Counter[str])
    """Rows that would send at least one call, by the reason."""


@dataclass(frozen=True)
class Forecast:
    """What a run would reuse and send. Rows behind those that would send are not known yet and not counted."""

    calls: AnyPath
    steps: Mapping[str, StepForecast]
    after: Mapping[str, tuple[str, ...]]
    """By step, the steps above it from which rows are not known yet."""

    def describe(self) -> Iterator[str]:
        """A line for each step that asks, and one for each reason."""
        yield f"calls in {self.calls}"
        for name, step in self.steps.items():
            sends = step.to_send.total()
            waits = f", more behind {', '.join(repr(above) for above in self.after[name])}" if self.after[name] else ""
            rows = "1 row" if sends == 1 else f"{sends:,} rows"
            calls = "1 call" if step.reused == 1 else f"{step.reused:,} calls"
            yield f"step {name}: {calls} reused, {rows} would send{waits}"
            for reason, count in step.to_send.items():
                yield f"  {count:,}: {reason}"


def forecast(plan: Plan, out: AnyPath, calls: AnyPath | None = None) -> Forecast:
    """What a run of `plan` into `out` would do. Raises SpecError, InputError, InfrastructureError."""
    folder = run_folder_at(out)
    log = (calls or folder.calls).absolute()
    known = _rows_asked(log)
    found: defaultdict[str, StepForecast] = defaultdict(StepForecast)

    def unsent(asked: CallOrigin) -> None:
        found[asked.step].to_send[_reason(plan, known, asked)] += 1

    check_reachable(log)
    index = index_with_segments(load_index(log), log, "*")
    with tempfile.TemporaryDirectory(prefix="raypipe-") as nowhere:
        place = Path(nowhere)
        (place / "parts").mkdir()
        version, options = read_identity_version(log), RunOptions(place, max_failure_rate=None)
        run = RunContext(options, place / "parts", place / "calls", "forecast", version, unsent=unsent)
        setup = RunSetup(run, plan, index)
        outcome = local.execute(setup, lambda _: None, Stop())
    totals: defaultdict[str, StepCounts] = defaultdict(StepCounts)
    for result in outcome.results:
        for name, counts in result.counts.items():
            totals[name].add(counts)
    asking = [name for name in plan.graph.order if plan.graph.steps[name].llm is not None]
    for name in asking:
        found[name].reused = totals[name].calls_cached
    sending = [name for name in asking if found[name].to_send]
    after = {name: tuple(one for one in sending if one in plan.graph.ancestors(name)) for name in asking}
    return Forecast(log, {name: found[name] for name in asking}, after)


def _reason(plan: Plan, known: Mapping[str, set[str]], asked: CallOrigin) -> str:
    if not plan.graph.steps[asked.step].use_cache:
        return NOT_CACHED
    if asked.step not in known:
        return NEW_STEP
    return CHANGED if asked.row.hex() in known[asked.step] else NEW_ROW


def _rows_asked(folder: AnyPath) -> dict[str, set[str]]:
    """By step, the identities (hexadecimal) of the rows of which a call stands in `folder`."""
    found: dict[str, set[str]] = {}
    for table in read_calls(compacted_files(folder), ["step", "row_id"]):
        for step, row in zip(*(column.to_pylist() for column in table.columns), strict=True):
            found.setdefault(step, set()).add(row)
    for path in segments(folder, "*"):
        with path.open("rb") as file:
            for _, (step, row, *_) in read_segment(file, str(path)):
                found.setdefault(step, set()).add(row)
    return found
