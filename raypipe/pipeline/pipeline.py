"""What a user holds: steps and edges collected, then run, dry-run, estimated, drawn."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack, cast

from raypipe.contracts.distilabel_names import refuse_options
from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import first_of, members_of
from raypipe.contracts.step import Source, Step
from raypipe.errors import InfrastructureError, SpecError
from raypipe.execution.context import MAX_FAILURE_RATE, Engine, RunOptions
from raypipe.execution.setup import Watch
from raypipe.execution.stopping import Stop
from raypipe.files.overrides import Parameters
from raypipe.graph.graph import Graph
from raypipe.limits import Caps
from raypipe.pipeline.pipeline_file import PipelineFile
from raypipe.plan.load_groups import LoadGroups, in_groups, load_stages
from raypipe.plan.plan import Plan, plan_graph
from raypipe.plan.resources import made_fit, of_this_machine
from raypipe.results import DryRun, Result
from raypipe.run.checks import check_models
from raypipe.run.forecast import Forecast, forecast
from raypipe.run.run import retry_plan, run_plan
from raypipe.run.spending_history import describe_caps, last_terms
from raypipe.storage.paths import AnyPath, parse_path

LoadGroupsOfSteps = Sequence[Sequence[str | Step]] | str | None


class RetryArguments(TypedDict, total=False):
    """Options of `Pipeline.retry`; its docstring and that of `Pipeline.run` say what they mean."""

    calls: str | AnyPath | None
    engine: Engine
    address: str | None
    max_failed_rows: int
    allow_fewer: bool
    max_failure_rate: float | None
    max_cost_usd: float | None
    max_calls: int | None
    max_tokens: int | None
    ask_again: bool
    parameters: Parameters | None
    dataset: Any
    load_groups: LoadGroupsOfSteps
    env: Sequence[str]
    shared: bool


class RunArguments(RetryArguments, total=False):
    """Options of `Pipeline.run`, whose docstring says what they mean."""

    fresh: bool
    use_cache: bool


class Pipeline(PipelineFile):
    """A graph of steps: `with Pipeline("name") as pipeline:` collects the steps made and joined inside."""

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

    def get_load_stages(self, load_groups: LoadGroupsOfSteps = None) -> tuple[list[list[str]], list[list[str]]]:
        """The steps loaded together, group after group, and of each group those that no other step of it follows.

        Raises SpecError.
        """
        plan = in_groups(self.plan(), self._by_name(load_groups))
        return load_stages(plan)

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

    def ray(self, ray_head_node_url: str | None = None) -> Self:
        """Run on the Ray cluster at this address, where a run names no other; by itself a pipeline starts Ray here."""
        self._address = ray_head_node_url
        return self

    def run(self, out: str | AnyPath | None = None, **options: Unpack[RunArguments]) -> Result:
        """Run and commit to the folder `out` (by default `out/<name>`); completed calls are not sent again.

        - `calls`: folder of the call log, which runs may share; by default inside `out`.
        - `engine`, `address`: `ray`, on the cluster at `address` or by default on one of its own on this machine; or
          `local`, in this process alone.
        - `fresh`: forget the calls made before, which is not asked again here, and take the folder over even from
          another pipeline; `use_cache=False` is the same.
        - `max_failed_rows`: rows that may fail in a run that counts as a success.
        - `allow_fewer`: let fewer rows take the place of more, though more than `max_failed_rows` failed or none came.
        - `max_failure_rate`: the run stops when the first 20 rows of a step, or so large a share of its last 200,
          failed for one kind of reason; by default 0.5, with `None` it never does.
        - `ask_again`: what a model refused to answer in earlier runs is asked again; by default a refusal is an answer.
        - `max_cost_usd`, `max_calls`, `max_tokens`: the most that all runs over the call log may spend together, in US
          dollars, calls sent, and tokens in and out.
        - `parameters`: options to change, by step, and by model under `models`:
          `{"answers": {"llm": {"temperature": 0.2}}, "models": {"judge": {"max_tokens": 200}}}`.
        - `dataset`: rows for the steps that come after no other, as `make_generator_step` takes them.
        - `load_groups`: steps that are loaded together, one group after the other, or `"sequential_step_execution"`;
          by default as many as there is room for.
        - `env`: names of environment variables that every node must have, beside those that hold the keys of models.
        - `shared`: the umask decides who may read what the run writes; by default its owner alone.

        Raises SpecError, InputError, OutputError before anything is spent, StoppedError when interrupted, when the
        budget is spent or when too many rows fail alike (what is complete is committed, and the same call goes on),
        RowsKeptError when rows failed and more rows of an earlier run were kept, InfrastructureError when an endpoint
        or worker cannot be used. In the main thread, Ctrl+C stops new calls and waits for those in flight; a second
        one does not.
        """
        changed = self.with_parameters(options.get("parameters"), options.get("dataset"))
        return changed.run_with(self._options("run", RunArguments, self.folder(out), options))

    def _options(self, called: str, known: type[Any], out: AnyPath, given: RunArguments) -> RunOptions:
        """What `run` or `retry` was given, as a value. Raises SpecError for what is not among the options `known`."""
        names = list(known.__annotations__)
        refuse_options(called, [name for name in given if name not in names], names)
        calls, engine = given.get("calls"), given.get("engine", "ray")
        return RunOptions(
            out,
            None if calls is None else parse_path(calls),
            engine,
            given.get("address", self._address if engine == "ray" else None),
            given.get("fresh", False) or not given.get("use_cache", True),
            given.get("max_failed_rows", 0),
            given.get("max_failure_rate", MAX_FAILURE_RATE),
            given.get("ask_again", False),
            caps=Caps(given.get("max_calls"), given.get("max_tokens"), given.get("max_cost_usd")),
            load_groups=self._by_name(given.get("load_groups")),
            allow_fewer=given.get("allow_fewer", False),
            env=tuple(given.get("env", ())),
            is_shared=given.get("shared", False),
        )

    def _by_name(self, groups: LoadGroupsOfSteps) -> LoadGroups:
        """Load groups with steps by name; what makes no sense is refused when they are applied."""
        if not groups or isinstance(groups, str):
            return cast("LoadGroups", groups or ())
        names = {id(step): name for name, step in self.named_steps().items()}
        return [[names.get(id(one), str(one)) for one in group] for group in groups]

    def run_with(self, options: RunOptions, watch: Watch | None = None, stop: Stop | None = None) -> Result:
        """`run` with its options as a value; `watch` is called about twice a second with the progress.

        Any thread may call `stop.ask` to end it early, as Ctrl+C does in the main thread.
        """
        return run_plan(self.validate(), self.to_yaml().encode(), options, watch, stop)

    def retry(
        self, out: str | AnyPath | None = None, *, kinds: Collection[str] = (), **options: Unpack[RetryArguments]
    ) -> Result:
        """Run only the rows again that failed in `out`, all or those of certain `kinds`, and merge what comes out.

        The other options are those of `run`, to be given as they were given there: `calls` and `dataset` are not
        remembered, `max_failed_rows`, `max_failure_rate` and, where none are given, caps and prices are those of the
        last run into `out`. Caps count what all runs over the call log have spent. Refusals are answers: they fail
        again, unless `ask_again`.
        What a retry sent and spent stands in the manifest, the last of `result.manifest["retries"]`.

        Raises as `run`, and InputError when nothing was committed there; nothing is changed then.
        """
        folder = self.folder(out)
        before = Result(folder)
        given: RunArguments = {
            "max_failed_rows": before.manifest["max_failed_rows"],
            "max_failure_rate": before.manifest.get("max_failure_rate", MAX_FAILURE_RATE),
            **options,
        }
        changed = self.with_parameters(options.get("parameters"), options.get("dataset"))
        return changed.retry_with(self._options("retry", RetryArguments, folder, given), kinds)

    def retry_with(
        self,
        options: RunOptions,
        kinds: Collection[str] = (),
        watch: Watch | None = None,
        stop: Stop | None = None,
    ) -> Result:
        """`retry` with its options as a value; `watch` and `stop` are those of `run_with`."""
        caps, prices = last_terms(options)
        if caps and not options.caps:
            said = "the caps of the run before hold for this retry, too: %s; give others to change them"
            logging.getLogger("raypipe").warning(said, describe_caps(caps))
            options = replace(options, caps=caps)
        plain = {llm.uri for step in self.named_steps().values() for llm in members_of(step.llm) if llm.price is None}
        pipeline = self.priced({uri: price for uri, price in prices.items() if uri in plain})
        return retry_plan(pipeline.validate(), pipeline.to_yaml().encode(), options, kinds, watch, stop)

    def dry_run(
        self, parameters: Parameters | None = None, batch_size: int = 1, dataset: Any = None, *, live: bool = False
    ) -> DryRun:
        """The first `batch_size` rows of each source through every step in this process, into a folder not kept.

        Unless `live`, the offline stand-in replaces models, searches and HTTP tools are played, and nothing is spent.
        `parameters` and `dataset` are those of `run`; what comes back is a mapping of leaf to rows like that of `run`.
        """
        graph = self.with_parameters(parameters, dataset).graph()
        models = {name: step.llm for name, step in graph.steps.items() if step.llm is not None}
        asked = graph if live else _with_stand_ins(graph)
        with tempfile.TemporaryDirectory(prefix="raypipe-") as folder:
            plan, out = plan_graph(asked, self.name), Path(folder, "out")
            options = RunOptions(out, None, "local", source_rows=batch_size, max_failed_rows=2**62, is_dry_run=not live)
            result = run_plan(plan, b"", replace(options, max_failure_rate=None))
            rows = {leaf: table.to_arrow() for leaf, table in result.items()}
            return DryRun(models, result.manifest, rows, result.failures.to_arrow())

    def forecast(self, out: str | AnyPath | None = None, calls: str | AnyPath | None = None) -> Forecast:
        """What `run` with the same `out` and `calls` would reuse and what it would send, and why. Sends nothing.

        Functions of steps are run. Raises SpecError, InputError, InfrastructureError.
        """
        return forecast(self.validate(), self.folder(out), None if calls is None else parse_path(calls))


def _with_stand_ins(graph: Graph) -> Graph:
    """The graph of a dry run: offline models in the place of all; those for different models answer differently."""
    steps: dict[str, Step] = {}
    for name, step in graph.steps.items():
        steps[name] = step
        if (llm := step.llm) is not None:
            first = first_of(llm)
            stand_in = LLM(f"offline/{first.uri.removeprefix('offline/')}", temperature=first.temperature)
            steps[name] = step.model_copy(update={"llm": stand_in})
    return Graph(steps, graph.edges, graph.flows)
