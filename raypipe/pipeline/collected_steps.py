"""Collects the steps that are made and joined inside a `with` block; gives copies with other options.

Knows nothing of files, and runs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Token
from pathlib import Path
from typing import Any, Self

from raypipe.contracts.distilabel_names import refuse_options
from raypipe.contracts.model_pool import make_pool, members_of
from raypipe.contracts.step import Collector, Runs, Step, collecting
from raypipe.errors import SpecError
from raypipe.files.overrides import Override, Parameters, describe_options, override_steps, overrides_of
from raypipe.graph.compile import build, name_steps
from raypipe.graph.graph import Graph
from raypipe.identity import canonical_json, digest
from raypipe.storage.paths import AnyPath, parse_path


class CollectedSteps:
    """Steps and edges of a pipeline, by name."""

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

    def named_steps(self) -> dict[str, Step]:
        """The steps by their names, given or made."""
        names, _ = name_steps(self.steps)
        return {names[id(step)]: step for step in self.steps}

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

    def replaced(self, steps: Mapping[str, Step]) -> Self:
        """The same pipeline with other steps in the places of those named."""
        names, _ = name_steps(self.steps)
        instead = {id(step): steps.get(names[id(step)], step) for step in self.steps}
        other = type(self)(self._name, self.description)
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

    def with_parameters(self, parameters: Parameters | None, dataset: Any = None) -> Self:
        """The same pipeline with other options of its steps and models, and as `with_dataset` where one is given.

        `parameters` are those of `Pipeline.run`. Raises SpecError with all violations.
        """
        other = self if dataset is None else self.with_dataset(dataset)
        if not parameters:
            return other
        return other.with_overrides(list(overrides_of(parameters, list(other.named_steps()))))

    def with_overrides(self, overrides: Sequence[Override]) -> Self:
        """`with_parameters` with each option to change as a value."""
        changed, models = override_steps(self.named_steps(), self._collected.models, overrides)
        other = self.replaced(changed)
        other._collected.models = {**models}
        return other

    def get_runtime_parameters_info(self) -> dict[str, list[dict[str, Any]]]:
        """What `parameters` may say: for each step its options, whether each may be left out, and what it is."""
        return {name: describe_options(step) for name, step in self.named_steps().items()}

    def with_dataset(self, dataset: Any) -> Self:
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

    def priced(self, prices: Mapping[str, tuple[float, float]]) -> Self:
        """The same pipeline with prices by model: US dollars for a million input and a million output tokens."""
        changed: dict[str, Step] = {}
        for name, step in self.named_steps().items():
            members = members_of(step.llm)
            if any(one.uri in prices for one in members):
                priced = [one.model_copy(update={"price": prices.get(one.uri, one.price)}) for one in members]
                changed[name] = step.model_copy(update={"llm": make_pool(priced)})
        return self.replaced(changed)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r}, {len(self.steps)} steps)"
