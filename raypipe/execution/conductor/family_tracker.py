"""Tells every family of a stage which rows were made, ended or were left. Knows nothing of queues or counts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raypipe.execution.conductor.families import Families, Meetings, Repeated
from raypipe.execution.wire import DONE, UNFINISHED
from raypipe.graph.branching import Meet
from raypipe.graph.repeat import Until
from raypipe.plan.plan import PlannedStep, Sink
from raypipe.values.selection import filter_rows

Routes = dict[str | Sink, pa.Table]
"""Rows by the step or sink that they go to."""


@dataclass(frozen=True)
class EndedRows:
    """Rows that are no longer in a step."""

    all: pa.Table
    done: pa.Table
    unfinished: pa.Table

    @staticmethod
    def of(rows: pa.Table, status: np.ndarray | None = None) -> EndedRows:
        """Rows by their `status`; without one, or where each is, they are all done."""
        if status is None or (status == DONE).all():
            return EndedRows(rows, rows, rows.slice(0, 0))
        return EndedRows(rows, filter_rows(rows, status == DONE), filter_rows(rows, status == UNFINISHED))


class FamilyTracker:
    """The families of all aggregates of one stage, the meetings of branches and repeated rows among them."""

    def __init__(self, steps: Mapping[str, PlannedStep]) -> None:
        self.by_step: dict[str, Families] = {}
        for name, planned in steps.items():
            if isinstance(planned.step, Until):
                self.by_step[name] = Repeated(planned, planned.step)
            elif planned.gather is not None:
                self.by_step[name] = (Meetings if isinstance(planned.step, Meet) else Families)(planned)

    def passed(self, name: str, inputs: EndedRows, made: pa.Table, routes: Routes) -> None:
        """A step is through with rows: tokens go to where its rows go, then those of its inputs are taken back.

        A family has a token for each of its rows on each way that leads to its end, and one for each family inside it.
        """
        opened = [families for families in self.by_step.values() if families.gather.opener == name]
        around = self._around(name)
        parents = {f.name: inputs.done if f.gather.brings_back_inputs else made for f in opened}
        for families in opened:
            families.open(parents[families.name])
        for families in [*opened, *around]:
            region = families.gather.region
            for target, rows in routes.items():
                if target in region:
                    families.move(rows, 1)
            for inner in opened:
                if inner is not families and inner.name in region:
                    families.move(parents[inner.name], 1)
        for families in around:
            families.spoil(inputs.unfinished)
            families.move(inputs.all, -1)
        for families in opened:
            families.move(parents[families.name], -1)

    def ended(self, name: str, rows: pa.Table, *, is_spoiled: bool = False) -> None:
        """Rows came to an end in a step; `is_spoiled`: they were left unfinished."""
        for families in self._around(name):
            if is_spoiled:
                families.spoil(rows)
            families.move(rows, -1)

    def _around(self, step: str) -> list[Families]:
        """The families whose members may be in a step, its own left out."""
        return [f for f in self.by_step.values() if f.name != step and step in f.gather.region]
