"""I am what a user holds: steps and edges collected, then run, dry-run, drawn, saved."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import Token
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

import orjson

from raypipe.contracts.distilabel_names import missing, refuse_options
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import change_members, members_of
from raypipe.contracts.step import Collector, Runs, Source, Step, collecting
from raypipe.errors import InfrastructureError, OutputError, SpecError
from raypipe.execution.context import Engine, RunOptions
from raypipe.execution.setup import Watch
from raypipe.execution.stopping import Stop
from raypipe.files.dump import described, not_json, to_yaml, unfindable
from raypipe.files.load import collected_from
from raypipe.files.overrides import Parameters, described_options, played, with_parameters
from raypipe.files.schema import PipelineSpec, folder_of, permissions_for, read_spec, spec_of
from raypipe.graph.branching import routing_batch_function, routing_function, sample_n_steps
from raypipe.graph.compile import build, name_steps
from raypipe.graph.graph import Graph
from raypipe.identity import canonical_json, digest
from raypipe.limits import Caps
from raypipe.plan.load_groups import in_groups, load_stages
from raypipe.plan.plan import Plan, plan_graph
from raypipe.plan.resources import made_fit, of_this_machine
from raypipe.results import DryRun, Result
from raypipe.run.forecast import Forecast, forecast
from raypipe.run.run import check_models, retry_plan, run_plan
from raypipe.security.permissions import Allowances, Permissions
from raypipe.storage.paths import AnyPath, parse_path

__all__ = ["DryRun", "Pipeline", "RunArguments", "routing_batch_function", "routing_function", "sample_n_steps"]


class RunArguments(TypedDict, total=False):
    """What `Pipeline.run` may be told."""

    calls: str | AnyPath | None
    """Folder of the call log; by default inside the run folder."""
    engine: Engine
    """`ray` (by default), or `local`: this process alone."""
    address: str | None
    """Ray cluster; by default one of its own on this machine."""
    fresh: bool
    """Forget the calls made before."""
    max_failed_rows: int
    """Failed rows that still count as success."""
    max_cost_usd: float | None
    """The most that all runs into the folder may cost; likewise calls sent, and tokens in and out."""
    max_calls: int | None
    max_tokens: int | None
    parameters: Parameters | None
    """Options to change, by step: `{"answers": {"llm": {"temperature": 0.2}}}`."""
    dataset: Any
    """Rows for the steps that come after no other: what `make_generator_step` takes."""
    shared: bool
    """True: the umask decides who may read what the run writes; by default its owner alone."""
    use_cache: bool
    """False: the same as `fresh`."""
    load_groups: Sequence[Sequence[str | Step]] | str | None
    """Steps that are loaded together and without others, one group after the other, or `sequential_step_execution`."""


class Pipeline:
    """A graph of steps: `with Pipeline("name") as pipeline:` collects the steps made and joined inside."""

    def __init__(self, name: str | None = None, description: str = "", **others: Any) -> None:
        """`others` are refused: there are none. Raises SpecError."""
        refuse_options("Pipeline", others, ["name", "description"])
        self._name = name
        self.description = description
        self._collected = Collector()
        self._tokens: list[Token[Collector | None]] = []
        self._address: str | None = None

    def __enter__(self) -> Self:
        self._tokens.append(collecting.set(self._collected))
        return self

    def __exit__(self, *_: object) -> None:
        collecting.reset(self._tokens.pop())

    @property
    def name(self) -> str:
        return self._name or "pipeline"

    @property
    def steps(self) -> Sequence[Step]:
        return tuple(self._collected.steps)

    def folder(self, out: str | AnyPath | None = None) -> AnyPath:
        """The run folder: `out`, or one under `out/` called as the pipeline, or as its steps when it has no name."""
        if out is not None:
            return parse_path(out)
        if self._name:
            return Path("out") / self._name
        names, _ = name_steps(self.steps)
        edges = sorted([names[id(above)], names[id(below)]] for above, below in self._collected.edges)
        return Path("out") / f"pipeline-{digest(canonical_json([sorted(names.values()), edges])).hex()[:8]}"

    def graph(self) -> Graph:
        """The sound graph. Raises SpecError with all violations."""
        return build(self._collected.steps, self._collected.edges, self._collected.routes)

    def plan(self) -> Plan:
        """Stages, pools and resources; starts nothing. Raises SpecError."""
        return plan_graph(self.graph(), self.name)

    def plan_here(self) -> tuple[Plan, str]:
        """The plan with steps loaded one group after the other where this machine has no room for all at once.

        With it, what has no room here all the same; empty where everything has. Raises SpecError.
        """
        plan, there = self.plan(), of_this_machine()
        try:
            return made_fit(plan, there), ""
        except InfrastructureError as error:
            return plan, str(error)

    def validate(self) -> Plan:
        """Everything that can be checked before spending, models included. Raises SpecError, InputError."""
        plan = self.plan()
        check_models(plan)
        for stage in plan.stages:
            entry = stage.steps[stage.entry].step
            if isinstance(entry, Source):
                entry.units()
        return plan

    def replaced(self, steps: Mapping[str, Step]) -> Pipeline:
        """The same pipeline with other steps in the places of those named."""
        names, _ = name_steps(self.steps)
        instead = {id(step): steps.get(names[id(step)], step) for step in self.steps}
        other = Pipeline(self._name, self.description)
        other._collected.steps = [instead[id(step)] for step in self.steps]
        other._collected.models = self._collected.models
        other._collected.routes = [
            (above and instead.get(id(above), above), routing, [instead.get(id(step), step) for step in below])
            for above, routing, below in self._collected.routes
        ]
        other._collected.edges = [
            (instead.get(id(above), above), instead.get(id(below), below)) for above, below in self._collected.edges
        ]
        return other

    def with_parameters(self, parameters: Parameters) -> Pipeline:
        """The same pipeline with other options of its steps. Raises SpecError with all violations."""
        names, _ = name_steps(self.steps)
        return self.replaced(with_parameters({names[id(step)]: step for step in self.steps}, parameters))

    def get_runtime_parameters_info(self) -> dict[str, list[dict[str, Any]]]:
        """What `parameters` may say: for each step its options, whether each may be left out, and what it is."""
        names, _ = name_steps(self.steps)
        return {names[id(step)]: described_options(step) for step in self.steps}

    def with_dataset(self, dataset: Any) -> Pipeline:
        """The same pipeline, its first steps reading `dataset`: what `make_generator_step` takes.

        Raises SpecError when it has a loader already.
        """
        from raypipe.steps import make_generator_step

        names, _ = name_steps(self.steps)
        loaders = [names[id(step)] for step in self.steps if step.runs is Runs.SOURCE]
        if loaders:
            problem = f"takes the place of a loader, but the pipeline has {loaders[0]!r}; leave one of them out"
            raise SpecError.of("dataset", problem)
        other = self.replaced({})
        below = {id(end) for _, end in other._collected.edges}
        routed = {id(step) for upstream, _, steps in other._collected.routes if upstream is None for step in steps}
        firsts = [step for step in other._collected.steps if id(step) not in below | routed]
        waiting = [(routing, steps) for upstream, routing, steps in other._collected.routes if upstream is None]
        other._collected.routes = [route for route in other._collected.routes if route[0] is not None]
        with other:
            loader = make_generator_step(dataset)
            loader.connect(*firsts)
            for routing, steps in waiting:
                loader.connect(*steps, routing_batch_function=routing)
        return other

    def draw(self, path: str | Path = "pipeline.svg", top_to_bottom: bool = False) -> str:
        """Draw the graph into a `.svg`, `.png` or `.mmd` (Mermaid) file; its path. Raises SpecError."""
        from raypipe.drawing import draw

        draw(self.graph().as_shown, Path(path), self.name, top_to_bottom=top_to_bottom)
        return str(path)

    def _repr_svg_(self) -> str | None:
        """How a notebook shows it; an unsound pipeline is shown as text."""
        from raypipe.drawing import svg

        with suppress(SpecError):
            return svg(self.graph().as_shown, self.name)
        return None

    def priced(self, prices: Mapping[str, tuple[float, float]]) -> Pipeline:
        """The same pipeline with prices by model: US dollars for a million input and a million output tokens."""
        names, _ = name_steps(self.steps)
        token = collecting.set(None)
        try:
            changed = {
                names[id(step)]: step.model_copy(update={"llm": change_members(llm, lambda one: _priced(one, prices))})
                for step in self.steps
                if (llm := step.llm) is not None and any(one.uri in prices for one in members_of(llm))
            }
        finally:
            collecting.reset(token)
        return self.replaced(changed)

    def ray(self, ray_head_node_url: str | None = None) -> Self:
        """Run on the Ray cluster at this address, where a run names no other; by itself a pipeline starts Ray here."""
        self._address = ray_head_node_url
        return self

    def run(self, out: str | AnyPath | None = None, **options: Unpack[RunArguments]) -> Result:
        """Run and commit to the folder `out` (by default `out/<name>`); completed calls are not sent again.

        Raises SpecError, InputError, OutputError before anything is spent, StoppedError when interrupted or when the
        budget is spent (what is complete is committed, and the same call goes on), InfrastructureError when an
        endpoint or worker cannot be used. In the main thread, Ctrl+C stops new calls and waits for those in flight; a
        second one does not.
        """
        known = list(RunArguments.__annotations__)
        refuse_options("run", [name for name in options if name not in known], known)
        dataset = options.get("dataset")
        changed = self if dataset is None else self.with_dataset(dataset)
        changed = changed.with_parameters(options.get("parameters") or {})
        return changed.run_with(self._options(out, options))

    def _options(self, out: str | AnyPath | None, options: RunArguments) -> RunOptions:
        log, engine = options.get("calls"), options.get("engine", "ray")
        caps = Caps(options.get("max_calls"), options.get("max_tokens"), options.get("max_cost_usd"))
        return RunOptions(
            self.folder(out),
            parse_path(log) if log is not None else None,
            engine,
            options.get("address", self._address if engine == "ray" else None),
            options.get("fresh", False) or not options.get("use_cache", True),
            options.get("max_failed_rows", 0),
            caps=caps,
            load_groups=self._named(options.get("load_groups")),
            is_shared=options.get("shared", False),
        )

    def _named(self, groups: Sequence[Sequence[str | Step]] | str | None) -> Any:
        """Load groups with steps by name; what makes no sense is said when they are applied."""
        if not groups or isinstance(groups, str):
            return groups or ()
        names, _ = name_steps(self.steps)
        return [[names.get(id(one), str(one)) for one in group] for group in groups]

    def get_load_stages(
        self, load_groups: Sequence[Sequence[str | Step]] | str | None = None
    ) -> tuple[list[list[str]], list[list[str]]]:
        """The steps loaded together, group after group, and of each group those that no other step of it follows.

        Raises SpecError.
        """
        plan = in_groups(self.plan(), self._named(load_groups))
        return load_stages(plan)

    def run_with(self, options: RunOptions, watch: Watch | None = None, stop: Stop | None = None) -> Result:
        """`run` with its options as a value; `watch` is told about twice a second how far it is.

        `stop` may be asked by any thread to end it early, as Ctrl+C does in the main thread.
        """
        return run_plan(self.validate(), self.to_yaml().encode(), options, watch, stop)

    def retry(
        self,
        out: str | AnyPath | None = None,
        *,
        kinds: Collection[str] = (),
        engine: Engine = "ray",
        address: str | None = None,
    ) -> Result:
        """Run only the rows again that failed in `out`, all or those of certain kinds, and merge what comes out.

        Raises as `run`, and InputError when nothing was committed there; nothing is changed then.
        """
        return self.retry_with(RunOptions(self.folder(out), engine=engine, address=address), kinds)

    def retry_with(
        self,
        options: RunOptions,
        kinds: Collection[str] = (),
        watch: Watch | None = None,
        stop: Stop | None = None,
    ) -> Result:
        """`retry` with its options as a value; `watch` and `stop` are those of `run_with`."""
        return retry_plan(self.validate(), self.to_yaml().encode(), options, kinds, watch, stop)

    def dry_run(
        self, parameters: Parameters | None = None, batch_size: int = 1, dataset: Any = None, *, live: bool = False
    ) -> DryRun:
        """The first `batch_size` rows of each source through every step in this process, into a folder not kept.

        Unless `live`, the offline stand-in replaces models, searches and HTTP tools are played, and nothing is spent.
        `parameters` and `dataset` are those of `run`; what comes back is a mapping of leaf to rows like that of `run`.
        """
        graph = (self if dataset is None else self.with_dataset(dataset)).with_parameters(parameters or {}).graph()
        models = {name: step.llm for name, step in graph.steps.items() if step.llm is not None}
        asked = graph if live else played(graph)
        with tempfile.TemporaryDirectory(prefix="raypipe-") as folder:
            plan, out = plan_graph(asked, self.name), Path(folder, "out")
            options = RunOptions(out, None, "local", source_rows=batch_size, max_failed_rows=2**62, is_dry_run=not live)
            result = run_plan(plan, b"", options)
            rows = {leaf: table.to_arrow() for leaf, table in result.items()}
            return DryRun(models, result.manifest, rows, result.failures.to_arrow())

    def forecast(self, out: str | AnyPath | None = None, calls: str | AnyPath | None = None) -> Forecast:
        """What `run` with the same `out` and `calls` would reuse and what it would send, and why. Sends nothing.

        Functions of steps are run. Raises SpecError, InputError, InfrastructureError.
        """
        return forecast(self.validate(), self.folder(out), parse_path(calls) if calls is not None else None)

    # Files.

    @classmethod
    def from_file(cls, path: str | Path, allow_import: Sequence[str] = (), **allowed: Unpack[Allowances]) -> Pipeline:
        """The pipeline that a YAML or JSON file (a path or a URL) describes. Raises SpecError with all violations.

        A file names steps of ours; what else it names is imported from the modules `allow_import` alone. It reads what
        lies in its own folder or `allow_files`, and sends keys to their providers or as `allow_keys` say; one from a
        URL reads no file, and names hosts of providers or `allow_hosts` alone. SECURITY.md says why.
        """
        return cls.from_spec(read_spec(path), folder_of(path), permissions_for(path, allow_import, **allowed))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], allow_import: Sequence[str] = ()) -> Pipeline:
        """The pipeline that `dump` gave as a mapping; relative paths start from the working directory."""
        here = Path.cwd()
        return cls.from_spec(spec_of(plain, "the mapping"), here, permissions_for(here / "mapping", allow_import))

    @classmethod
    def from_spec(cls, spec: PipelineSpec, base: Path, permissions: Permissions | None = None) -> Pipeline:
        """The pipeline of a file that was read; `base` is the folder that its relative paths start from."""
        pipeline = cls(spec.name, spec.description)
        pipeline._collected = collected_from(spec, base, permissions or permissions_for(base / "file"))
        return pipeline

    def to_yaml(self) -> str:
        """The pipeline as a file; functions are named by their dotted paths."""
        return to_yaml(described(self.name, self.description, self._collected))

    from_yaml = from_json = from_file

    def dump(self) -> dict[str, Any]:
        """The pipeline as the plain mapping that a file holds."""
        return described(self.name, self.description, self._collected)

    def save(self, path: str | Path, format: str | None = None) -> None:
        """Write it to a file, as JSON when `format` or the file's name says so, else as YAML.

        Raises SpecError for what could not be read back: functions of no module, values that JSON does not have.
        """
        target = Path(path)
        if format not in (None, "json", "yaml") or target.is_dir():
            problem = "is a folder; name a file in it" if target.is_dir() else f"format is json or yaml, not {format!r}"
            raise SpecError.of(str(path), problem)
        if lost := unfindable(self._collected):
            raise SpecError(violations=lost)
        is_json = format == "json" or (format is None and target.suffix == ".json")
        if is_json and (said := next(not_json(self.dump()), "")):
            raise SpecError.of(str(path), f"cannot be JSON ({said}); write YAML")
        try:
            text = orjson.dumps(self.dump(), option=orjson.OPT_INDENT_2).decode() if is_json else self.to_yaml()
        except TypeError as error:
            raise SpecError.of(str(path), f"cannot be JSON ({error}); write YAML") from None
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror or error}") from None

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self.steps)} steps)"


def _priced(llm: LLM, prices: Mapping[str, tuple[float, float]]) -> LLM:
    return llm.model_copy(update={"price": prices[llm.uri]}) if llm.uri in prices else llm


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, __all__)
