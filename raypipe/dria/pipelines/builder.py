"""Builds a pipeline in Dria's words: its inputs, then its steps in order.

Knows nothing of how it is run. Everything that can be known before a question is asked is checked here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, Self

from raypipe.contracts.step import Aggregate
from raypipe.contracts.step import Step as AnyStep
from raypipe.dria.client import Dria
from raypipe.dria.models import CallbackType
from raypipe.dria.pipelines.callbacks import SINGLE, Following
from raypipe.dria.pipelines.config import PipelineConfig
from raypipe.dria.pipelines.inputs import Inputs, check_inputs
from raypipe.dria.pipelines.pipeline import Pipeline
from raypipe.dria.pipelines.steps import ROWS, TASK, Answers, HandOver, TaskStep
from raypipe.dria.pipelines.template import StepTemplate
from raypipe.dria.tasks import to_json
from raypipe.errors import SpecError, Violation
from raypipe.identity import digest
from raypipe.pipeline import Pipeline as Graph
from raypipe.steps import LoadDataFromDicts

__all__ = ["Pipeline", "PipelineBuilder", "StepTemplate"]

_SHOWN = 10
"""Unfit inputs that are reported; others are likely to be wrong in the same way."""
_SINGLE_VALUED = frozenset({CallbackType.SCATTER, CallbackType.BROADCAST, CallbackType.AGGREGATE})


class PipelineBuilder:
    """`PipelineBuilder(dria)`, or `PipelineBuilder(config, dria)`; then `.input(…)`, `<<` for each step, `.build()`.

    `config` changes nothing, see `PipelineConfig`. Raises SpecError without a client.
    """

    def __init__(self, config: PipelineConfig | Dria | None = None, dria: Dria | None = None) -> None:
        given = [one for one in (config, dria) if isinstance(one, Dria)]
        if len(given) != 1:
            problem = "is made of a client, or of a configuration and a client: PipelineBuilder(Dria())"
            raise SpecError.of("PipelineBuilder", problem)
        self._dria = given[0]
        self._inputs: list[Mapping[str, Any]] = []
        self._templates: list[StepTemplate] = []

    def input(self, rows: Sequence[Mapping[str, Any]] | None = None, /, **values: Any) -> Self:
        """Set the tasks of the first step: a list of mappings, or the inputs of a single task by name.

        Raises SpecError for anything else.
        """
        if rows is None:
            self._inputs = [values] if values else []
            return self
        if values or isinstance(rows, str | Mapping) or not isinstance(rows, Sequence):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError.of("input", "is a list of mappings, or the inputs of one task by name: input(topic=…)")
        wrong = next((number for number, row in enumerate(rows, 1) if not isinstance(row, Mapping)), None)  # pyright: ignore[reportUnnecessaryIsInstance]
        if wrong is not None:
            raise SpecError.of("input", f"row {wrong} is a {type(rows[wrong - 1]).__name__}, not a mapping of inputs")
        self._inputs = list(rows)
        return self

    def __lshift__(self, template: StepTemplate) -> Self:
        """Add a step after the others. Raises SpecError where it does not fit the inputs, or the step before it."""
        if not isinstance(template, StepTemplate):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise SpecError.of("<<", f"takes an instance of a StepTemplate, got {template!r}")
        if self._templates:
            self._check_join(template)
        else:
            self._check_inputs(template)
        self._templates.append(template)
        return self

    def build(self) -> Pipeline:
        """The pipeline. Raises SpecError with all that is wrong with it."""
        if not self._templates:
            raise SpecError.of("pipeline", "has no steps; add one with `pipeline << Step()`")
        names: list[str] = []
        for number, template in enumerate(self._templates):
            bare = re.sub(r"[^A-Za-z0-9_-]|^[_-]+", "", type(template).__name__) or "Step"
            names.append(f"{bare}.{number}")
        tasks = [{TASK: to_json(row)} for row in self._inputs]
        self._templates[0].make_workflow(tasks[0])
        graph = Graph(f"dria-{digest(' '.join(names).encode()).hex()[:8]}")
        with graph:
            above: AnyStep = LoadDataFromDicts(tasks, name="input")
            for number, template in enumerate(self._templates):
                after = self._templates[number + 1] if number + 1 < len(names) else None
                following = None if after is None else Following(names[number + 1], Inputs.of(after.create_workflow))
                for step in self._steps(template, names[number], following):
                    above = above >> step
        graph.graph()
        return Pipeline(graph, names, self._dria, is_default=self._templates[-1].ending.kind is CallbackType.DEFAULT)

    def _steps(self, template: StepTemplate, name: str, following: Following | None) -> list[AnyStep]:
        """The steps for a template: one asks for each task, others hand its answers over."""
        llm = self._dria.pool_of(template.config.models)
        asking = TaskStep(name, workflow=template.make_workflow, inputs=[TASK], output="result", llm=llm)
        ending = template.ending
        own: dict[str, Any] = {"template": template, "answered": name, "following": following}
        if following is None and ending.kind is CallbackType.DEFAULT:
            return [asking, Answers("dataset", **own)]
        # With one input all answers come from it, so none needs to wait for the end of a stage.
        by = "root" if ending.gathers and len(self._inputs) == 1 else ending.gathers
        together: list[AnyStep] = [] if by is None else [Aggregate(f"{name}.outputs", by=by, as_rows=ROWS)]
        handing = HandOver("dataset" if following is None else f"{name}.callback", **own, gathers=by is not None)
        return [asking, *together, handing]

    def _check_inputs(self, template: StepTemplate) -> None:
        where = f"input of {type(template).__name__}"
        if not self._inputs:
            raise SpecError.of(where, "is not set, or empty; call .input(…) before the first step is added")
        found = (
            Violation(where, f"{problem} (row {number})" if len(self._inputs) > 1 else problem)
            for number, row in enumerate(self._inputs, 1)
            for problem in check_inputs(template.create_workflow, row)
        )
        problems = list(islice(found, _SHOWN))
        if problems:
            raise SpecError(violations=problems)

    def _check_join(self, template: StepTemplate) -> None:
        """Raises SpecError where tasks that the last step will make cannot fit this one, whatever is answered."""
        above, inputs = self._templates[-1], Inputs.of(template.create_workflow)
        kind, own = above.ending.kind, type(template).__name__
        where = f"{type(above).__name__} << {own}"
        if kind in _SINGLE_VALUED and len(inputs.required) > 1:
            several = ", ".join(inputs.required)
            problem = f"{kind} has one value for each task, and {own} takes several ({several}); use a custom callback"
            raise SpecError.of(where, problem)
        if kind is CallbackType.DEFAULT and (missing := inputs.missing({SINGLE: None})):
            problem = f"the answers go on as {SINGLE!r}, but {own} takes {missing[0]}; choose scatter, or a callback"
            raise SpecError.of(where, problem)
