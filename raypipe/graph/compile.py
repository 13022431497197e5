"""Makes a sound graph of what a user wrote, or lists everything that is unsound about it.

Names the steps and follows the columns from step to step; a message names steps as the user knows them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from graphlib import CycleError

from raypipe.contracts.declaration import late_problem
from raypipe.contracts.imports import snake_case
from raypipe.contracts.model_pool import ModelPool
from raypipe.contracts.step import Aggregate, Columns, Runs, Shape, Source, Step, collecting
from raypipe.errors import SpecError, Violation, nearest
from raypipe.graph.branching import Meet, Routing, columns_of_all
from raypipe.graph.expand import Choice, Expanded, expanded
from raypipe.graph.graph import Edge, Flow, Graph
from raypipe.graph.lost_columns import lost_columns
from raypipe.graph.repeat import Candidates, Until
from raypipe.row import MODEL_NAME, RESERVED


def build(
    steps: Sequence[Step],
    edges: Sequence[tuple[Step, Step]],
    routes: Sequence[tuple[Step | None, Routing, Sequence[Step]]] = (),
) -> Graph:
    """The sound graph of `steps`; `routes` as in `Collector`. Raises SpecError with all violations."""
    names, problems = name_steps(steps)
    known = {id(step) for step in steps}
    pairs = [(names[id(a)], names[id(b)]) for a, b in edges if id(a) in known and id(b) in known]
    strangers = {id(end): end for edge in edges for end in edge if id(end) not in known}
    for end in strangers.values():
        problems.append(Violation(repr(end.name), "is joined here but was made outside this pipeline block"))
    for pair in sorted({pair for pair in pairs if pairs.count(pair) > 1}):
        problems.append(Violation(f"edge {pair[0]!r} >> {pair[1]!r}", "is written twice; remove one"))
    lacking = list(_lacking({names[id(step)]: step for step in steps}))
    if lacking:  # what a step reads and writes may follow from what it lacks
        raise SpecError(violations=[*problems, *lacking])
    named = _naming_models({names[id(step)]: step for step in steps}, pairs)
    choices: list[Choice] = []
    for upstream, routing, targets in routes:
        if upstream is None:
            problem = "has no step before it; put one, or run the pipeline with dataset=…"
            problems.append(Violation(f"routing to {', '.join(repr(names[id(step)]) for step in targets)}", problem))
        elif id(upstream) in known:
            problems.extend(
                _route_violations(names[id(upstream)], [names[id(step)] for step in targets], pairs, choices)
            )
            choices.append((names[id(upstream)], routing, tuple(names[id(step)] for step in targets)))
    if problems:
        raise SpecError(violations=problems)
    return _sound(expanded(named, pairs, choices), named)


def _lacking(steps: Mapping[str, Step]) -> Iterator[Violation]:
    """Options without a default that nobody has given yet."""
    for name, step in steps.items():
        for option in sorted(step.late):
            if getattr(step, option) is None:
                yield Violation(f"step {name!r}", late_problem(name, option))


def _route_violations(
    name: str, targets: Sequence[str], edges: Sequence[Edge], others: Sequence[Choice]
) -> Iterator[Violation]:
    """Targets that no edge leads to, or that two routings share: rows would be lost on the way."""
    where = f"routing after {name!r}"
    for target in targets:
        if (name, target) not in edges:
            yield Violation(where, f"chooses {target!r}, which does not come after it; join them with `>>` or `after`")
        if any(upstream == name and target in shared for upstream, _, shared in others):
            yield Violation(where, f"chooses {target!r}, and so does another routing of the step; leave one out")


def name_steps(steps: Sequence[Step]) -> tuple[dict[int, str], list[Violation]]:
    """A name for each step (by `id`), and the names given twice."""
    problems: list[Violation] = []
    taken: set[str] = set()
    for step in steps:
        if step.name is not None and step.name in taken:
            problems.append(Violation(f"step {step.name!r}", "two steps have this name; rename one"))
        taken.add(step.name or "")
    names: dict[int, str] = {}
    for step in steps:
        name = step.name
        if name is None:
            stem = snake_case(type(step).__name__)
            name = next(f"{stem}_{number}" for number in range(len(steps)) if f"{stem}_{number}" not in taken)
            taken.add(name)
        names[id(step)] = name
    return names, problems


def _naming_models(steps: dict[str, Step], edges: Sequence[Edge]) -> dict[str, Step]:
    """Steps before one that reads `model_name`, or that ask a pool of models, write it, unless they say otherwise."""
    graph = Graph(steps, tuple(edges))
    asked = {above for name, step in steps.items() if MODEL_NAME in step.takes() for above in graph.all_before(name)}
    token = collecting.set(None)
    try:
        return {
            name: step.model_copy(update={"add_model_name": True})
            if getattr(step, "add_model_name", True) is None
            and (name in asked or (isinstance(step.llm, ModelPool) and MODEL_NAME not in step.writes()))
            else step
            for name, step in steps.items()
        }
    finally:
        collecting.reset(token)


def _sound(made: Expanded, own: Collection[str]) -> Graph:
    # A step that was given no name is called in messages as the pipeline calls it, one put in as the one it belongs to.
    called = {name: made.owners.get(name, name) for name in made.steps}
    steps = {n: step if step.name else step.model_copy(update={"name": called[n]}) for n, step in made.steps.items()}
    graph = Graph(steps, made.edges, {}, made.owners, made.fronts)
    problems = [*_shape_violations(graph)]
    try:
        order = graph.order
    except CycleError as error:
        cycle = [name for name in error.args[1][::-1] if name in own]
        if len(cycle) == 1 or cycle[0] != cycle[-1]:  # it began at a step that was put in
            cycle.append(cycle[0])
        problems.append(Violation("edges", f"form a cycle: {' >> '.join(map(repr, cycle))}; remove one edge"))
        order = []
    flows: dict[str, Flow] = {}
    for name in order:
        flows[name] = _flow(graph, flows, name, problems)
    graph = replace(graph, flows=flows)
    for name, step in steps.items():
        unsound = [*step.problems(), *_option_problems(step), *_mapping_problems(step)]
        problems.extend(Violation(f"step {graph.owner(name)!r}", problem) for problem in unsound)
    problems.extend(() if problems else [*_repeat_violations(graph), *lost_columns(graph)])
    if problems:
        raise SpecError(violations=problems)
    return graph


def _shape_violations(graph: Graph) -> list[Violation]:
    problems: list[Violation] = []
    if not graph.steps:
        problems.append(Violation("pipeline", "has no steps; add a loader such as LoadDataFromDicts and a step"))
    for name, step in graph.steps.items():
        above = graph.predecessors[name]
        where = f"step {graph.owner(name)!r}"
        if step.runs is Runs.SOURCE and above:
            problems.append(Violation(where, f"reads its own rows and cannot come after {graph.owner(above[0])!r}"))
        if step.runs is Runs.SOURCE and step.when is not None:
            problems.append(Violation(where, "reads rows and takes no `when`; put a Filter(keep=…) behind it"))
        if step.runs is not Runs.SOURCE and not above:
            hint = "join it behind one with `>>` or `after:`"
            problems.append(Violation(where, f"has no step before it and is no loader; {hint}"))
        if isinstance(step, Meet) and step.when is not None:
            problems.append(Violation(where, "brings branches together and takes no `when`; put it on a branch"))
    return problems


def _flow(graph: Graph, flows: dict[str, Flow], name: str, problems: list[Violation]) -> Flow:
    step, above = graph.steps[name], graph.predecessors[name]
    before = _flow_before(flows, step, above)
    where = f"step {graph.owner(name)!r}"
    if above:
        problems.extend(_missing_columns(where, step, graph.owner(above[0]), before.columns))
    for column in sorted(RESERVED & set(step.gives())):
        problems.append(Violation(where, f"writes column {column!r}, a name kept for lineage; rename it"))
    columns = step.columns_after(before.columns)
    if step.copies > 1 and columns is not None:
        columns = tuple(dict.fromkeys((*columns, "sample")))
    if isinstance(step, Meet) and above:
        return _meeting_flow(graph, flows, name, problems)
    if isinstance(step, Aggregate) and above:
        return _aggregate_flow(graph, flows, name, problems)
    opener = graph.steps[before.open_scatters[-1]] if before.open_scatters else None
    if isinstance(step, Until) and above and not isinstance(opener, Candidates):
        problems.append(
            Violation(where, "ends what `Candidates` begins, but none is open here; put Candidates() before")
        )
    if step.shape is Shape.SCATTER or step.copies > 1:
        return Flow(columns, (*before.open_scatters, name))
    return Flow(columns, before.open_scatters)


def _repeat_violations(graph: Graph) -> Iterator[Violation]:
    """Candidates that nothing ends, or that another family waits for besides."""
    ends = {name: graph.opener(name) for name, step in graph.steps.items() if isinstance(step, Until)}
    for name, step in graph.steps.items():
        if not isinstance(step, Candidates):
            continue
        mine = [until for until, opener in ends.items() if opener == name]
        if len(mine) != 1:
            listed = " and ".join(repr(graph.owner(until)) for until in mine) or "nothing"
            yield Violation(f"step {graph.owner(name)!r}", f"is ended by {listed}; put one Until(…) behind it")
            continue
        for gather, other in graph.steps.items():
            if not isinstance(other, Aggregate) or other.is_barrier:
                continue
            opener = graph.opener(gather)
            region = graph.between(opener, gather)
            if name in {opener, *region} and mine[0] not in region:
                problem = f"brings together what {name!r} makes more of; put it behind {graph.owner(mine[0])!r}"
                yield Violation(f"step {graph.owner(gather)!r}", problem)


def _flow_before(flows: dict[str, Flow], step: Step, above: Sequence[str]) -> Flow:
    """The rows that come to a step; their columns are unknown where its place is unsound."""
    if not above:
        return Flow(() if step.runs is Runs.SOURCE else None)
    columns = columns_of_all([flows[one].columns for one in above])
    return Flow(columns, flows[above[0]].open_scatters)


def _missing_columns(where: str, step: Step, above: str, available: Columns) -> list[Violation]:
    if available is None:
        return []
    missing = [column for column in step.takes() if column not in available]
    if not missing:
        return []
    own = {column: name for name, column in step.input_mappings.items()}
    nearest_to = get_close_matches(missing[0], sorted(available), 1) or sorted(available)[:1] or ["…"]
    fix = f"input_mappings={{{own.get(missing[0], missing[0])!r}: {nearest_to[0]!r}}}"
    problem = (
        f"requires inputs {list(step.takes())}, but only the inputs={sorted(available)} are available after {above!r}, "
        f"which means that the inputs={missing} are missing; add the step that writes them or map a column with {fix}"
    )
    return [Violation(where, problem)]


def _meeting_flow(graph: Graph, flows: dict[str, Flow], name: str, problems: list[Violation]) -> Flow:
    """Branches can meet when a row has one row in each."""
    step, above = graph.steps[name], graph.predecessors[name]
    assert isinstance(step, Meet)
    where = f"step {graph.owner(name)!r}"
    sources = {one: one if graph.is_entry(one) else graph.source_of(one) for one in above}
    if len(set(sources.values())) > 1:
        called = graph.owner
        listed = ", ".join(f"{called(one)!r} (rows of {called(source)!r})" for one, source in sources.items())
        hint = "branches meet by row identity; read all rows with one loader, or give each source a step of its own"
        problems.append(Violation(where, f"comes after steps with rows of different origin: {listed}; {hint}"))
    scatters = {one: flows[one].open_scatters for one in above}
    if len(set(scatters.values())) > 1:
        opened = {one: " in ".join(repr(graph.owner(name)) for name in found) for one, found in scatters.items()}
        listed = ", ".join(f"{graph.owner(one)!r} ({found or 'no'} open)" for one, found in opened.items())
        problem = f"comes after branches with different open scatters: {listed}; aggregate before the branches meet"
        problems.append(Violation(where, problem))
    return Flow(step.columns_of([flows[one].columns for one in above]), scatters[above[0]])


def _aggregate_flow(graph: Graph, flows: dict[str, Flow], name: str, problems: list[Violation]) -> Flow:
    step, above = graph.steps[name], graph.predecessors[name][0]
    assert isinstance(step, Aggregate)
    before = flows[above]
    if step.is_barrier:
        return Flow(_collected(step, step.by if isinstance(step.by, list) else [], before.columns))
    if step.by == "scatter" and not before.open_scatters:
        if step.as_rows is None:
            hint = 'put a scatter before it, or use by="root", by="all" or by=[columns]'
            problem = f"closes the nearest scatter, but none is open here; {hint}"
            problems.append(Violation(f"step {graph.owner(name)!r}", problem))
            return before
        step.by = "root"
    opener = before.open_scatters[-1] if step.by == "scatter" else graph.source_of(name)
    scattered_from = graph.predecessors[opener]
    inside = step.by == "scatter" and scattered_from
    parent = flows[scattered_from[0]] if inside else Flow(flows[opener].columns)
    return Flow(_collected(step, parent.columns, before.columns), parent.open_scatters)


def _collected(step: Aggregate, kept: Sequence[str] | None, available: Columns) -> Columns:
    if kept is None:
        return None
    if step.as_rows is not None:
        return tuple(dict.fromkeys([*kept, step.as_rows]))
    if step.columns is not None:
        return tuple(dict.fromkeys([*kept, *step.columns]))
    return None if available is None else tuple(dict.fromkeys([*kept, *available]))


def _mapping_problems(step: Step) -> Iterator[str]:
    """Mappings of columns that the step does not have."""
    if (step.input_mappings or step.output_mappings) and step.runs in (Runs.TABLE, Runs.GATHER):
        yield "works on columns by their own names and takes no mappings; name the columns themselves"
        return
    outputs = None
    if step.output_mappings:
        outputs = step.columns() if isinstance(step, Source) else tuple(step.writes()) or None
    for kind, mappings, own in (
        ("input", step.input_mappings, None if step.is_given_all else step.needs()),
        ("output", step.output_mappings, outputs),
    ):
        for name in mappings:
            if own is not None and name not in own:
                known = ", ".join(repr(column) for column in own) or "none"
                yield f"has {kind}_mappings for {name!r}, but its {kind}s are: {known}{nearest(name, list(own))}"


def _option_problems(step: Step) -> Iterator[str]:
    """Why a step's `on_error` has no meaning, or why there is nothing to scatter."""
    if step.on_error != "fail_row" and step.runs not in (Runs.ROW, Runs.THREAD):
        yield f"has on_error={step.on_error!r}, but no row can fail here; leave it out"
    if step.on_error == "null" and step.is_given_all:
        yield "has on_error='null', but it is given all rows at once and none could go on; use 'fail_row' or 'stop'"
    if step.on_error == "null" and step.shape is Shape.FILTER:
        yield "has on_error='null', but a filter writes no column; use 'fail_row' or 'stop'"
    makes_rows = step.runs in (Runs.ROW, Runs.THREAD) and step.shape is Shape.SCATTER
    if step.scattered and not (makes_rows and not step.is_given_batches):
        yield "makes no lists to scatter; leave scatter out, or put ExpandColumns(columns=[…]) behind it"
