"""A built pipeline of Dria: run at once, or started in the background and polled.

Knows nothing of its steps' workflows; the graph that it runs is an ordinary pipeline of raypipe.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, TypedDict, Unpack
from uuid import uuid4

from raypipe.dria.client import Dria
from raypipe.dria.pipelines.background import Background
from raypipe.dria.pipelines.steps import OUTPUT, output_of
from raypipe.errors import RowError, SpecError, Violation, nearest
from raypipe.execution.conductor.conductor import Snapshot
from raypipe.execution.context import Engine, RunOptions
from raypipe.execution.stopping import Stop
from raypipe.identity import canonical_json, digest
from raypipe.limits import Caps
from raypipe.pipeline import Pipeline as Graph
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts
from raypipe.storage.paths import AnyPath, parse_path

_log = logging.getLogger("raypipe.dria")


class PipelineStatus(StrEnum):
    """The status of a pipeline; for one that failed, `poll` raises its error."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"


class Execution(TypedDict, total=False):
    """Options of `execute`, beside whether it waits."""

    out: str | AnyPath | None
    """The run folder; by default the client's, or one under `out/` named after the steps and the inputs."""
    calls: str | AnyPath | None
    """Folder of the call log; by default in the run folder, or shared by all inputs of the same steps."""
    engine: Engine
    """`ray`, or `local`: this process alone. By default the client's."""
    address: str | None
    """Address of a Ray cluster; by default the client's."""
    fresh: bool
    """Reuse no call of earlier runs."""
    max_cost_usd: float | None
    """Most money for calls of this run, in US dollars."""
    max_calls: int | None
    """Most calls of this run."""
    max_tokens: int | None
    """Most tokens of this run, sent and received."""


class Pipeline:
    """Steps with their inputs. `execute` runs them; answers are kept, so that a second run asks only for the rest.

    A task that fails is left out of its step's callback and of the output, a warning is logged, and `failures` has it
    with the reason. Where tasks failed and there is no output at all, `execute` raises RowError.
    """

    def __init__(self, graph: Graph, names: Sequence[str], dria: Dria, *, is_default: bool) -> None:
        self.pipeline_id = str(uuid4())
        self.graph = graph
        """The `raypipe.Pipeline` that is run."""
        self.result: Result | None = None
        """The dataset, failures and manifest of the last run."""
        self._names = list(names)
        self._dria = dria
        self._is_default = is_default
        self._state = names[0]
        self._background: Background[Any] | None = None

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Tasks of the last run that failed: step, kind, message, tries and row of each."""
        return [] if self.result is None else self.result.failures.to_arrow().to_pylist()

    async def execute(self, return_output: bool = False, **options: Unpack[Execution]) -> Any:
        """Run it and return its output; without `return_output` start it and return its id, see `poll`.

        The output is what the last step's callback returned, tasks as mappings; without callback
        `{"result": [every answer]}`. Other coroutines run meanwhile. Cancelled, as by Ctrl+C, it finishes the calls in
        flight and raises StoppedError. Raises what `raypipe.pipeline.Pipeline.run` raises, and RowError.
        """
        run = self._read_options(options)
        self._background = Background(lambda stop: self._run(run, stop))
        return await self._background.result() if return_output else self.pipeline_id

    def execute_sync(self, **options: Unpack[Execution]) -> Any:
        """`execute(return_output=True)` without an event loop."""
        return self._run(self._read_options(options), None)

    def poll(self) -> tuple[str, str, Any]:
        """The step at work, the status, and the output once there is one. Raises the error of a run that failed."""
        if self._background is None:
            return self._state, PipelineStatus.PENDING.value, None
        if not self._background.future.done():
            return self._state, PipelineStatus.RUNNING.value, None
        return self._state, PipelineStatus.COMPLETED.value, self._background.future.result()

    def folder(self, out: str | AnyPath | None = None) -> AnyPath:
        """The run folder: `out`, the client's, or one named after the steps and the inputs."""
        given = out if out is not None else self._dria.out
        if given is not None:
            return parse_path(given)
        source = self.graph.steps[0]
        assert isinstance(source, LoadDataFromDicts)
        return self.graph.folder() / digest(canonical_json(list(source.data))).hex()[:12]

    def _read_options(self, options: Execution) -> RunOptions:
        """Options of `execute` as those of a run. Raises SpecError for one that does not exist."""
        known = list(Execution.__annotations__)
        unknown = [f"has no option {name!r}{nearest(name, known)}" for name in options if name not in known]
        if unknown:
            raise SpecError(violations=[Violation("execute", problem) for problem in unknown])
        folder, calls = self.folder(options.get("out")), options.get("calls")
        if calls is None and options.get("out") is None and self._dria.out is None:
            calls = folder.parent / "calls"
        engine = options.get("engine", self._dria.engine)
        address = options.get("address", self._dria.address if engine == "ray" else None)
        caps = Caps(options.get("max_calls"), options.get("max_tokens"), options.get("max_cost_usd"))
        log = None if calls is None else parse_path(calls)
        return RunOptions(folder, log, engine, address, options.get("fresh", False), caps=caps)

    def _run(self, options: RunOptions, stop: Stop | None) -> Any:
        self.result = None
        result = self.result = self.graph.run_with(options, self._watch, stop)
        self._state = self._names[-1]
        rows = result["dataset"].to_arrow()
        output: list[str] = rows.column(OUTPUT).to_pylist() if OUTPUT in rows.column_names else []
        if result.failed_rows:
            self._report_failures(result, has_output=bool(output))
        return output_of(output, is_default=self._is_default)

    def _watch(self, snapshots: Sequence[Snapshot]) -> None:
        started = {name for one in snapshots for name, counts in one.counts.items() if counts.rows_in}
        self._state = next((name for name in reversed(self._names) if name in started), self._state)

    def _report_failures(self, result: Result, *, has_output: bool) -> None:
        """Warns of failed tasks. Raises RowError where there is no output."""
        failures = result.failures.to_arrow().select(["step", "kind", "message"]).to_pylist()
        [((step, kind), _)] = Counter((one["step"], one["kind"]) for one in failures).most_common(1)
        example = next(one["message"] for one in failures if (one["step"], one["kind"]) == (step, kind))
        summary = f"{len(failures)} tasks failed, most at {step!r} ({kind}), for example: {example}"
        if not has_output:
            raise RowError(f"there is no output: {summary}; all failures are in {result.path / 'failures'}", kind)
        _log.warning("%s; the output lacks them, all failures are in %s", summary, result.path / "failures")
