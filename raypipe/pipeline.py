"""I am what a user holds: steps and edges collected, then run, dry-run, drawn, saved."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import Token
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack

from raypipe.branching import routing_batch_function, routing_function, sample_n_steps
from raypipe.building import build, name_steps
from raypipe.chat import LLM
from raypipe.config import PipelineSpec, place, read_spec
from raypipe.errors import SpecError, Violation, nearest
from raypipe.execution.setup import Watch
from raypipe.graph import Graph
from raypipe.limits import Caps
from raypipe.parameters import Parameters, described_options, with_parameters
from raypipe.plan import Plan, plan_graph
from raypipe.results import Result
from raypipe.run import Engine, RunOptions, check_models, retry_plan, run_plan
from raypipe.serialization import described, to_yaml
from raypipe.step import Collector, Runs, Source, Step, collecting
from raypipe.steps import resolve

__all__ = ["DryRun", "Pipeline", "RunArguments", "routing_batch_function", "routing_function", "sample_n_steps"]

REHEARSAL = "offline/stand-in"


class RunArguments(TypedDict, total=False):
    """What `Pipeline.run` may be told."""

    calls: str | Path | None
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
    use_cache: bool
    """False: the same as `fresh`."""


class Pipeline:
    """A graph of steps: `with Pipeline("name") as pipeline:` collects the steps made and joined inside."""

    def __init__(self, name: str | None = None, description: str = "") -> None:
        self._name = name
        self.description = description
        self._collected = Collector()
        self._tokens: list[Token[Collector | None]] = []

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

    def graph(self) -> Graph:
        """The sound graph. Raises SpecError with all violations."""
        return build(self._collected.steps, self._collected.edges, self._collected.routes)

    def plan(self) -> Plan:
        """Stages, pools and resources; starts nothing. Raises SpecError."""
        return plan_graph(self.graph(), self.name)

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
            raise SpecError(violations=[Violation("dataset", problem)])
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

        draw(self.graph(), Path(path), self.name, top_to_bottom=top_to_bottom)
        return str(path)

    def _repr_svg_(self) -> str | None:
        """How a notebook shows it; an unsound pipeline is shown as text."""
        from raypipe.drawing import svg

        with suppress(SpecError):
            return svg(self.graph(), self.name)
        return None

    def priced(self, prices: Mapping[str, tuple[float, float]]) -> Pipeline:
        """The same pipeline with prices by model: US dollars for a million input and a million output tokens."""
        names, _ = name_steps(self.steps)
        token = collecting.set(None)
        try:
            changed = {
                names[id(step)]: step.model_copy(update={"llm": llm.model_copy(update={"price": prices[llm.uri]})})
                for step in self.steps
                if (llm := step.llm) is not None and llm.uri in prices
            }
        finally:
            collecting.reset(token)
        return self.replaced(changed)

    def run(self, out: str | Path | None = None, **options: Unpack[RunArguments]) -> Result:
        """Run and commit to the folder `out` (by default `out/<name>`); completed calls are not sent again.

        Raises SpecError, InputError, OutputError before anything is spent, StoppedError when interrupted or when the
        budget is spent (what is complete is committed, and the same call goes on), InfrastructureError when an
        endpoint or worker cannot be used. In the main thread, Ctrl+C stops new calls and waits for those in flight; a
        second one does not.
        """
        dataset = options.get("dataset")
        changed = self if dataset is None else self.with_dataset(dataset)
        changed = changed.with_parameters(options.get("parameters") or {})
        return changed.run_with(self._options(out, options))

    def _options(self, out: str | Path | None, options: RunArguments) -> RunOptions:
        log = options.get("calls")
        caps = Caps(options.get("max_calls"), options.get("max_tokens"), options.get("max_cost_usd"))
        return RunOptions(
            Path(out) if out is not None else Path("out") / self.name,
            Path(log) if log is not None else None,
            options.get("engine", "ray"),
            options.get("address"),
            options.get("fresh", False) or not options.get("use_cache", True),
            options.get("max_failed_rows", 0),
            caps=caps,
        )

    def run_with(self, options: RunOptions, watch: Watch | None = None) -> Result:
        """`run` with its options as a value; `watch` is told about twice a second how far it is."""
        return run_plan(self.validate(), self.to_yaml().encode(), options, watch)

    def retry(
        self,
        out: str | Path | None = None,
        *,
        kinds: Collection[str] = (),
        engine: Engine = "ray",
        address: str | None = None,
    ) -> Result:
        """Run only the rows again that failed in `out`, all or those of certain kinds, and merge what comes out.

        Raises as `run`, and InputError when nothing was committed there; nothing is changed then.
        """
        folder = Path(out) if out is not None else Path("out") / self.name
        return self.retry_with(RunOptions(folder, engine=engine, address=address), kinds)

    def retry_with(self, options: RunOptions, kinds: Collection[str] = (), watch: Watch | None = None) -> Result:
        """`retry` with its options as a value."""
        return retry_plan(self.validate(), self.to_yaml().encode(), options, kinds, watch)

    def dry_run(self, rows: int = 1, *, live: bool = False) -> DryRun:
        """The first source rows through every step in this process, into a folder that is not kept.

        Models are replaced by the offline stand-in and nothing is spent, unless `live`.
        """
        graph = self.graph()
        models = {name: step.llm for name, step in graph.steps.items() if step.llm is not None}
        played = graph if live else _with_models(graph, lambda _: LLM(REHEARSAL))
        with tempfile.TemporaryDirectory(prefix="raypipe-") as folder:
            options = RunOptions(Path(folder) / "out", engine="local", source_rows=rows, max_failed_rows=2**62)
            result = run_plan(plan_graph(played, self.name), b"", options)
            samples = {leaf: table.to_arrow().slice(0, 3).to_pylist() for leaf, table in result.items()}
            failures = result.failures.to_arrow().slice(0, 3).to_pylist()
        return DryRun(models, result.manifest, samples, failures)

    # Files.

    @classmethod
    def from_file(cls, path: str | Path) -> Pipeline:
        """The pipeline that a YAML or JSON file describes. Raises SpecError with all violations."""
        return cls.from_spec(read_spec(Path(path)), Path(path).absolute().parent)

    @classmethod
    def from_spec(cls, spec: PipelineSpec, base: Path) -> Pipeline:
        """The pipeline of a file that was read; `base` is the folder that its relative paths start from."""
        pipeline = cls(spec.name, spec.description)
        problems: list[Violation] = []
        models = _models(spec, problems)
        with pipeline:
            made = [_step(number, spec, models, base, problems) for number in range(len(spec.steps))]
            by_name = {one.name: step for one, step in zip(spec.steps, made, strict=True) if one.name and step}
            for number, step in enumerate(made):
                for above in _above(number, spec, made, by_name, problems):
                    if step is not None:
                        above.connect(step)
        if problems:
            raise SpecError(violations=problems)
        return pipeline

    def to_yaml(self) -> str:
        """The pipeline as a file; functions are named by their dotted paths."""
        return to_yaml(described(self.name, self.description, self._collected))

    def save(self, path: str | Path) -> None:
        """Write `to_yaml()` to a file."""
        Path(path).write_text(self.to_yaml(), encoding="utf-8")

    def __repr__(self) -> str:
        return f"Pipeline({self.name!r}, {len(self.steps)} steps)"


class DryRun:
    """What a dry run found: the models that a real run calls, counts per step, some rows, some failures."""

    def __init__(
        self,
        models: dict[str, LLM],
        manifest: dict[str, Any],
        samples: dict[str, list[dict[str, Any]]],
        failures: list[dict[str, Any]],
    ) -> None:
        self.models = models
        self.manifest = manifest
        self.samples = samples
        self.failures = failures


def _with_models(graph: Graph, choose: Callable[[LLM], LLM]) -> Graph:
    token = collecting.set(None)
    try:
        steps = {
            name: step if step.llm is None else step.model_copy(update={"llm": choose(step.llm)})
            for name, step in graph.steps.items()
        }
    finally:
        collecting.reset(token)
    return Graph(steps, graph.edges, graph.flows)


def _models(spec: PipelineSpec, problems: list[Violation]) -> dict[str, LLM]:
    models: dict[str, LLM] = {}
    for name, options in spec.models.items():
        try:
            models[name] = LLM(**options)
        except (SpecError, TypeError) as error:
            problems.append(Violation(f"model {name!r}", str(error).removeprefix("LLM: ")))
    return models


def _step(
    number: int, spec: PipelineSpec, models: dict[str, LLM], base: Path, problems: list[Violation]
) -> Step | None:
    one = spec.steps[number]
    where = place(number, one.name)
    try:
        kind = resolve(one.type)
        options = one.options
        if "llm" in options:
            options["llm"] = _llm(options["llm"], spec, models, where)
        if "base_dir" in kind.model_fields:
            options.setdefault("base_dir", str(base))
        return kind(**options)
    except SpecError as error:
        problems.extend(v if one.name and one.name in v.where else Violation(where, str(v)) for v in error.violations)
    except TypeError as error:
        problems.append(Violation(where, f"has an option that cannot be read: {error}"))
    return None


def _llm(said: Any, spec: PipelineSpec, models: dict[str, LLM], where: str) -> LLM | None:
    if isinstance(said, str) and said in spec.models:
        return models.get(said) or LLM(REHEARSAL)
    if isinstance(said, str) and "/" in said:
        return LLM(said)
    if isinstance(said, dict):
        return LLM(**{str(name): value for name, value in said.items()})
    hint = nearest(str(said), list(spec.models))
    raise SpecError(violations=[Violation(where, f"option 'llm': there is no model {said!r}{hint}")])


def _above(
    number: int,
    spec: PipelineSpec,
    made: Sequence[Step | None],
    by_name: dict[str, Step],
    problems: list[Violation],
) -> list[Step]:
    """The steps that step `number` comes after."""
    one = spec.steps[number]
    if one.after is None:
        previous = made[number - 1] if number and not isinstance(made[number], Source) else None
        return [previous] if previous is not None else []
    names = [other.name for other in spec.steps if other.name]
    for name in one.after:
        if name not in names:
            where = place(number, one.name)
            problems.append(Violation(where, f"option 'after': there is no step {name!r}{nearest(name, names)}"))
    return [by_name[name] for name in one.after if name in by_name]
