"""I am a built pipeline of Dria: run at once, or begun and asked about.

I do not know its steps' workflows; the graph that I run is like any other of raypipe's.
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
    """How far a pipeline is; of one that failed, `poll` raises why."""

    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"


class Execution(TypedDict, total=False):
    """What `execute` may be told, beside whether it waits."""

    out: str | AnyPath | None
    """The run folder; by default the client's, or one under `out/` that the steps and the inputs name."""
    calls: str | AnyPath | None
    """Folder of the call log; by default inside the run folder, or shared by all inputs of the same steps."""
    engine: Engine
    """`ray`, or `local`: this process alone. By default the client's."""
    address: str | None
    fresh: bool
    """Forget the calls made before."""
    max_cost_usd: float | None
    max_calls: int | None
    max_tokens: int | None


class Pipeline:
    """Steps with their inputs. `execute` runs them; what was answered is kept, and a second run asks only the rest.

    A task that fails is left out of what its step's callback sees and of the output, a warning is logged, and
    `failures` has it with the reason. Where tasks failed and nothing came out, `execute` raises RowError.
    """

    def __init__(self, graph: Graph, names: Sequence[str], dria: Dria, *, is_default: bool) -> None:
        self.pipeline_id = str(uuid4())
        self.graph = graph
        """The same pipeline in raypipe's own words."""
        self.result: Result | None = None
        """The dataset, failures and manifest of the last run."""
        self._names = list(names)
        self._dria = dria
        self._is_default = is_default
        self._state = names[0]
        self._background: Background[Any] | None = None

    @property
    def failures(self) -> list[dict[str, Any]]:
        """Tasks of the last run that failed: step, kind, message, tries and the row."""
        return [] if self.result is None else self.result.failures.to_arrow().to_pylist()

    async def execute(self, return_output: bool = False, **options: Unpack[Execution]) -> Any:
        """Run it and return its output; without `return_output` begin it and return its id, see `poll`.

        The output is what the last step's callback returned, tasks as mappings; without callback
        `{"result": [every answer]}`. Other coroutines go on meanwhile. Cancelled, as by Ctrl+C, it finishes the
        calls in flight and raises StoppedError. Raises what `raypipe.pipeline.Pipeline.run` raises, and RowError.
        """
        run = self._options(options)
        self._background = Background(lambda stop: self._run(run, stop))
        return await self._background.result() if return_output else self.pipeline_id

    def execute_sync(self, **options: Unpack[Execution]) -> Any:
        """`execute(return_output=True)` without an event loop."""
        return self._run(self._options(options), None)

    def poll(self) -> tuple[str, str, Any]:
        """The step that works, the status, and the output once there is one. Raises why the pipeline failed."""
        if self._background is None:
            return self._state, PipelineStatus.PENDING.value, None
        if not self._background.future.done():
            return self._state, PipelineStatus.RUNNING.value, None
        return self._state, PipelineStatus.COMPLETED.value, self._background.future.result()

    def folder(self, out: str | AnyPath | None = None) -> AnyPath:
        """The run folder: `out`, the client's, or one that is called as the steps and the inputs."""
        given = out if out is not None else self._dria.out
        if given is not None:
            return parse_path(given)
        source = self.graph.steps[0]
        assert isinstance(source, LoadDataFromDicts)
        return self.graph.folder() / digest(canonical_json(list(source.data))).hex()[:12]

    def _options(self, options: Execution) -> RunOptions:
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
            self._tell(result, has_output=bool(output))
        return output_of(output, is_default=self._is_default)

    def _watch(self, snapshots: Sequence[Snapshot]) -> None:
        begun = {name for one in snapshots for name, counts in one.counts.items() if counts.rows_in}
        self._state = next((name for name in reversed(self._names) if name in begun), self._state)

    def _tell(self, result: Result, *, has_output: bool) -> None:
        """Warn of failed tasks; raises RowError where nothing came out."""
        failures = result.failures.to_arrow().select(["step", "kind", "message"]).to_pylist()
        [((step, kind), _)] = Counter((one["step"], one["kind"]) for one in failures).most_common(1)
        example = next(one["message"] for one in failures if (one["step"], one["kind"]) == (step, kind))
        said = f"{len(failures)} tasks failed, most at {step!r} ({kind}), for example: {example}"
        if not has_output:
            raise RowError(f"nothing came out: {said}; all are in {result.path / 'failures'}", kind)
        _log.warning("%s; the output is without them, all are in %s", said, result.path / "failures")
