"""The configuration of a pipeline and its steps. Knows nothing of how they run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

from pydantic import Field, model_validator

from raypipe.contracts.declaration import Spec
from raypipe.steps.idle_options import warn_idle
from raypipe.workflows.tasks import Limits


class PipelineConfig(Spec):
    """Dria's options of waiting for its network. They change nothing here, and a warning says so.

    Nothing is polled, and a run has no deadline; `StepTemplate.set_workflow_params` limits the time of each task.
    """

    retry_interval: float = Field(default=2, ge=0)
    pipeline_timeout: float = Field(default=0, ge=0)
    step_timeout: float = Field(default=60, ge=0)

    @model_validator(mode="after")
    def _warn_of_idle_options(self) -> Self:
        for name in self.model_fields_set:
            warn_idle("PipelineConfig", name, "nothing is polled; set_workflow_params(max_time=…) limits each task")
        return self


class StepConfig(Spec):
    """Models and limits of a step. Limits that are not given are those of its workflow."""

    models: list[Any] | None = None
    """Members of `Model`, `LLM`s or their uris; by default the client's default."""
    min_compute: float | None = Field(default=None, ge=0, le=1)
    """Changes nothing, and a warning says so: no task is left out for being slow."""
    max_time: float | None = Field(default=None, gt=0)
    """Most seconds of work on a task."""
    max_steps: int | None = Field(default=None, gt=0)
    """Most questions asked for a task."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Most tokens of all answers for a task together."""

    @model_validator(mode="after")
    def _warn_of_min_compute(self) -> Self:
        if self.min_compute is not None:
            warn_idle("StepConfig", "min_compute", "no task is left out for being slow")
        return self

    def limits(self, own: Limits) -> Limits:
        """A workflow's own limits, replaced where the step has some."""
        given = {"max_time": self.max_time, "max_steps": self.max_steps, "max_tokens": self.max_tokens}
        return replace(own, **{name: value for name, value in given.items() if value is not None})

    def update(self, given: Mapping[str, Any]) -> StepConfig:
        """A copy with the options that are given; `None`, 0 and an empty list change nothing. Raises SpecError."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return StepConfig(**kept | {name: value for name, value in given.items() if value})
