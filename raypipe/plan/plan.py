"""Turns a sound graph into ordered stages with resources. Starts nothing; a plan can be printed.

A stage is a largest part of the graph without a barrier inside: it begins at a source, or at an
aggregate that needs every row before it can give its first, and its rows flow without waiting.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, members_of
from raypipe.contracts.step import Aggregate, Columns, Runs, Step
from raypipe.graph.branching import Meet, Route
from raypipe.graph.graph import Graph
from raypipe.graph.lost_columns import new_in_family
from raypipe.graph.repeat import Until
from raypipe.models import engine_gpus, gpus_of

THREADS = "python"
"""Name of the pool of workers without a model."""
THREADS_CONCURRENCY = 8
KEPT = ("cpus", "gpus", "memory")
"""What a worker may have to itself."""


@dataclass(frozen=True, slots=True)
class Sink:
    """Where rows are written that leave a stage."""

    kind: Literal["leaf", "barrier", "failures", "spilled"]
    """The dataset of a leaf, the input of an aggregate of a later stage, failed rows, or batches between two phases."""
    step: str = ""
    """The leaf, or the aggregate; empty for what all steps share."""

    @property
    def folder(self) -> str:
        """Name of the folder for its part files; no two sinks share one, since no step's name begins with `~`."""
        names = {"leaf": self.step, "barrier": f"~{self.step}", "failures": "~failures~", "spilled": "~parked~"}
        return names[self.kind]


FAILURES, SPILLED = Sink("failures"), Sink("spilled")


@dataclass(frozen=True)
class Pool:
    """Workers bound to one model (or to none), shared by every step that names it."""

    name: str
    llm: ModelOrPool | None
    replicas: int
    """Workers that are started; none where the first is to be started by a row that waits."""
    concurrency: int
    """Calls in flight for each replica."""
    rows_a_call: int = 1
    cpus: float = 0
    gpus: float = 0
    memory: int = 0
    """What each replica has to itself; memory in bytes."""
    others: tuple[ModelOrPool, ...] = ()
    """Models that the same engine answers for, asked in other ways."""

    @property
    def rows(self) -> int:
        """Rows that each replica works on at once."""
        return self.concurrency * self.rows_a_call

    @property
    def least(self) -> int:
        """The fewest workers with which its steps get on."""
        return max(1, self.replicas)

    @property
    def most(self) -> int:
        """The most replicas that there may be, while rows wait."""
        return max(self.replicas, *(member.replica_range[1] for member in self.members), 1)

    @property
    def llms(self) -> tuple[ModelOrPool, ...]:
        """All that the steps of the pool ask."""
        return () if self.llm is None else (self.llm, *self.others)

    @property
    def members(self) -> list[LLM]:
        """The same, each member of a pool of models by itself."""
        return [member for llm in self.llms for member in members_of(llm)]


@dataclass(frozen=True)
class Gather:
    """How an aggregate inside a stage finds its families."""

    opener: str
    """Step (or stage entry) whose emitted rows are the members."""
    level: int
    """Index, in a member's ancestors, of the row they are brought back to."""
    region: frozenset[str]
    """Steps in which members may still be on their way, the aggregate included."""
    collects: Columns
    """Columns that become lists, where they are known, the parent's own left out; of a meeting, all its columns."""
    brings_back_inputs: bool
    """Whether a family is what became of a row that came to the opener, not of one that left it."""
    branches: Mapping[str, Columns] = field(default_factory=dict[str, Columns])
    """Of a meeting: the steps that its branches come from, and the columns that each may have changed."""
    new: tuple[str, ...] = ()
    """Columns that are written anew to the members, to be collected where it turns out that the parent has them too."""


@dataclass(frozen=True)
class PlannedStep:
    """A step with its place: where it works and where its rows go."""

    name: str
    step: Step
    pool: str | None
    """`None`: the conductor does it."""
    successors: tuple[str, ...]
    """Names of steps of the same stage."""
    sinks: tuple[Sink, ...]
    """Where its rows are written: its own dataset when it is a leaf, and the inputs of barriers that it feeds."""
    shown: str = ""
    """The step as part of which it is shown and counted; empty: itself."""
    gather: Gather | None = None
    is_routed: bool = False
    """Whether each row says to which of the steps it goes."""


@dataclass(frozen=True)
class Stage:
    """Steps between barriers, in an order where each comes after its predecessor."""

    index: int
    entry: str
    """The source, or the barrier aggregate, whose rows the stage takes in."""
    reads_stage: int | None
    """The stage whose rows a barrier entry takes; `None` for a source."""
    steps: Mapping[str, PlannedStep]
    """The entry is among them: it does nothing to its rows but passes them on."""
    pools: tuple[str, ...]
    phases: tuple[frozenset[str], ...] = ()
    """Steps whose workers are there at the same time, one group after the other; empty when all are."""
    grouped_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    """The columns of each aggregate of a later stage that takes in rows of this one and groups them by columns."""

    def pools_of(self, phase: frozenset[str]) -> tuple[str, ...]:
        """The pools that a phase works with; those of the whole stage where it has no phases."""
        used = {planned.pool for name, planned in self.steps.items() if name in phase}
        return tuple(name for name in self.pools if name in used) if phase else self.pools


@dataclass(frozen=True)
class Plan:
    """What will run, in order."""

    name: str
    graph: Graph
    stages: tuple[Stage, ...]
    pools: Mapping[str, Pool]

    @property
    def models(self) -> list[LLM]:
        """All that is asked, each member of a pool of models by itself."""
        return [member for pool in self.pools.values() for member in pool.members]

    def describe(self) -> str:
        """The plan as text, one line for each stage, pool and step."""
        shown = self.graph.as_shown
        stages = "1 stage" if len(self.stages) == 1 else f"{len(self.stages)} stages"
        lines = [f"pipeline {self.name}: {len(shown.steps)} steps, {stages}"]
        for pool in self.pools.values():
            what = pool.llm.label if pool.llm else "Python functions"
            served = "".join(f", served with {engine_gpus(one):g} GPUs" for one in pool.members if one.serve)
            number = str(pool.replicas) if pool.replicas == pool.most else f"{pool.replicas} to {pool.most}"
            lines.append(f"pool {pool.name}: {what}, {number} × {pool.concurrency} in flight{_kept(pool)}{served}")
        for stage in self.stages:
            origin = "reads" if stage.reads_stage is None else f"groups rows of stage {stage.reads_stage} by"
            lines.append(f"stage {stage.index}: {origin} {self.graph.shown(stage.entry)!r}")
            for name, planned in stage.steps.items():
                if name in shown.steps and name != stage.entry:
                    lines.append(f"  {_describe(planned, self.graph)}")
            for number, phase in enumerate(stage.phases, 1):
                together = dict.fromkeys(self.graph.owner(name) for name in stage.steps if name in phase)
                lines.append(f"  loaded together, {number} of {len(stage.phases)}: {', '.join(together)}")
        lines.append(f"writes {', '.join(f'data/{leaf}/' for leaf in self.graph.leaves)}")
        return "\n".join(lines)


def _kept(pool: Pool) -> str:
    """What the workers of a pool have to themselves, all together."""
    words = [f", {pool.gpus * pool.least:g} GPUs"] if pool.gpus else []
    words += [f", {pool.cpus * pool.least:g} CPUs"] if pool.cpus else []
    words += [f", {pool.memory * pool.least / 2**30:.3g} GiB"] if pool.memory else []
    return "".join(words)


def _describe(planned: PlannedStep, graph: Graph) -> str:
    step = planned.step
    words = [f"{planned.name}: {type(step).__name__}"]
    for name in graph.parts[planned.name]:
        words += _gathering(graph, name)
    if step.when is not None:
        words.append(f"when {step.when if isinstance(step.when, str) else step.when.__name__}")
    words.append(f"in pool {planned.pool!r}" if planned.pool else "in the conductor")
    words.append(f"{step.shape}, broadcast {step.copies}" if step.copies > 1 else str(step.shape))
    after = dict.fromkeys(graph.shown(name) for name in planned.successors)
    if after:
        words.append(f"→ {', '.join(after)}")
    return ", ".join(words)


def _gathering(graph: Graph, name: str) -> Iterator[str]:
    """What is said of a step that brings rows together."""
    step = graph.steps[name]
    if step.runs is not Runs.GATHER:
        return
    if isinstance(step, Aggregate) and step.is_barrier and graph.shown(name) != name:
        yield "all rows at once"
        return
    opener = graph.owner(graph.opener(name))
    if isinstance(step, Aggregate):
        yield f"closes {opener!r}"
    if isinstance(step, Until):
        yield f"ends {opener!r} with {step.n_accepted} of at most {step.max_candidates}"
    if isinstance(step, Meet):
        yield f"branches since {opener!r} meet"


def plan_graph(graph: Graph, name: str = "pipeline") -> Plan:
    """The plan of a sound graph."""
    pools, pool_of = _pools(graph)
    entries = [name for name in graph.order if graph.is_entry(name)]
    home = _homes(graph)
    index = {entry: number for number, entry in enumerate(entries)}
    stages = tuple(
        _stage(graph, entry, index, [step for step in graph.order if home[step] == entry], pool_of) for entry in entries
    )
    return Plan(name, graph, stages, pools)


def _homes(graph: Graph) -> dict[str, str]:
    """The entry of the stage that each step belongs to."""
    home: dict[str, str] = {}
    for name in graph.order:
        home[name] = name if graph.is_entry(name) else home[graph.predecessors[name][0]]
    return home


def _stage(graph: Graph, entry: str, index: dict[str, int], names: list[str], pool_of: dict[str, str]) -> Stage:
    inside = set(names)
    steps: dict[str, PlannedStep] = {}
    for name in names:
        after = graph.successors[name]
        barriers = tuple(Sink("barrier", other) for other in after if other not in inside)
        steps[name] = PlannedStep(
            name=name,
            step=graph.steps[name],
            pool=pool_of.get(name),
            successors=tuple(other for other in after if other in inside),
            sinks=barriers if after else (Sink("leaf", name),),
            shown=graph.shown(name),
            gather=_gather(graph, name) if name != entry and graph.steps[name].runs is Runs.GATHER else None,
            is_routed=isinstance(graph.steps[name], Route),
        )
    above = graph.predecessors[entry]
    reads = index[_homes(graph)[above[0]]] if above else None
    used = tuple(dict.fromkeys(pool_of[name] for name in names if name in pool_of))
    return Stage(index[entry], entry, reads, steps, used, grouped_by=_grouped_by(graph, names))


def _grouped_by(graph: Graph, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The aggregates behind steps that group by columns, and these columns."""
    after = dict.fromkeys(other for name in names for other in graph.successors[name])
    barriers = {other: graph.steps[other] for other in after if other not in names}
    return {
        other: tuple(step.by)
        for other, step in barriers.items()
        if isinstance(step, Aggregate) and isinstance(step.by, list)
    }


def _gather(graph: Graph, name: str) -> Gather:
    step, opener = graph.steps[name], graph.opener(name)
    region = graph.between(opener, name)
    if isinstance(step, Meet):
        depth = len(graph.flows[opener].open_scatters)
        branches = {above: _changes(graph, above, region) for above in graph.predecessors[name]}
        return Gather(opener, depth, region, graph.flows[name].columns, False, branches)
    if isinstance(step, Until):
        return Gather(opener, len(graph.flows[opener].open_scatters) - 1, region, (), True)
    assert isinstance(step, Aggregate)
    closes_scatter = step.by == "scatter"
    level = len(graph.flows[opener].open_scatters) - 1 if closes_scatter else 0
    parent = graph.parent_columns(name)
    after = graph.flows[name].columns
    known = parent is not None and after is not None
    collects = tuple(column for column in after if column not in parent) if known else None  # pyright: ignore
    new = () if known else tuple(new_in_family(graph, name))
    return Gather(opener, level, region, collects, closes_scatter, new=new)


def _changes(graph: Graph, last: str, region: frozenset[str]) -> Columns:
    """The columns that a branch may change, up to its last step."""
    found: dict[str, None] = {}
    for name in region & (graph.ancestors(last) | {last}):
        changed = graph.steps[name].changes()
        if changed is None:
            return None
        found |= dict.fromkeys(changed)
    return tuple(sorted(found))


def _pools(graph: Graph) -> tuple[dict[str, Pool], dict[str, str]]:
    """Pools by name, and the pool of each step that has one; equal models share a pool."""
    pools: dict[str, Pool] = {}
    pool_of: dict[str, str] = {}
    for name in graph.order:
        step = graph.steps[name]
        has_own = any(getattr(step.resources, kind) for kind in KEPT)
        if step.is_given_batches and (step.resources.replicas > 1 or has_own):
            pools[name] = _widened(Pool(name, None, step.resources.replicas, 1, step.input_batch_size), step)
            pool_of[name] = name
        elif step.llm is None and has_own and step.runs in (Runs.THREAD, Runs.ROW):
            pools[name] = _widened(Pool(name, None, 1, THREADS_CONCURRENCY), step)
            pool_of[name] = name
        elif step.runs is Runs.THREAD or (step.runs is Runs.ROW and step.llm is None):
            shared = _widened(pools.get(THREADS) or Pool(THREADS, None, 1, THREADS_CONCURRENCY), step)
            rows = step.input_batch_size if step.is_given_batches else 1
            pools[THREADS] = replace(shared, rows_a_call=max(shared.rows_a_call, rows))
            pool_of[name] = THREADS
        elif step.runs is Runs.ROW and step.llm is not None:
            pool_of[name] = own = _pool_for(step.llm, pools)
            pools[own] = _widened(pools[own], step)
    return pools, pool_of


def _widened(pool: Pool, step: Step) -> Pool:
    """The pool with as many workers, and as much for each, as a step wishes; calls in flight stay the same in all."""
    wanted = step.resources.replicas
    kept = {name: max(getattr(pool, name), getattr(step.resources, name)) for name in KEPT}
    pool = replace(pool, **kept)
    if wanted <= pool.least:
        return pool
    in_flight = pool.concurrency if pool.llm is None else max(_in_flight(llm, wanted) for llm in pool.llms)
    return replace(pool, replicas=wanted, concurrency=in_flight)


def _in_flight(llm: ModelOrPool, replicas: int) -> int:
    """Most calls in flight to all members from each replica."""
    return sum(member.in_flight(replicas) for member in members_of(llm))


def _pool_for(llm: ModelOrPool, pools: dict[str, Pool]) -> str:
    for pool in pools.values():
        if llm in pool.llms:
            return pool.name
        if isinstance(pool.llm, LLM) and isinstance(llm, LLM) and llm.shares_engine_with(pool.llm):
            in_flight = max(pool.concurrency, _in_flight(llm, pool.most))
            pools[pool.name] = replace(pool, others=(*pool.others, llm), concurrency=in_flight)
            return pool.name
    taken = sum(pool.llm is not None and pool.llm.label == llm.label for pool in pools.values())
    name = llm.label if not taken else f"{llm.label} #{taken + 1}"
    fewest, most = (max(ends) for ends in zip(*(member.replica_range for member in members_of(llm)), strict=True))
    pools[name] = Pool(name, llm, fewest, _in_flight(llm, most), gpus=sum(map(gpus_of, members_of(llm))))
    return name
