"""I am what a pipeline and its steps may be told beside their inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import Field

from raypipe.contracts.declaration import Spec
from raypipe.workflows.tasks import Limits


class PipelineConfig(Spec):
    """What Dria's pipelines were told about waiting for the network. It changes nothing here.

    Nothing is polled, and a run has no deadline: time is a matter of rows, see `StepTemplate.set_workflow_params`.
    """

    retry_interval: float = Field(default=2, ge=0)
    pipeline_timeout: float = Field(default=0, ge=0)
    step_timeout: float = Field(default=60, ge=0)


class StepConfig(Spec):
    """Models and limits of a step. What is not given is as the workflow itself says."""

    models: list[Any] | None = None
    """Members of `Model`, `LLM`s or their uris; by default the client's own model."""
    min_compute: float | None = Field(default=None, ge=0, le=1)
    """Changes nothing: no task is left behind for being slow."""
    max_time: float | None = Field(default=None, gt=0)
    """Most seconds of work on a task."""
    max_steps: int | None = Field(default=None, gt=0)
    """Most questions asked for a task."""
    max_tokens: int | None = Field(default=None, gt=0)
    """Most tokens that all answers for a task have together."""

    def limits(self, own: Limits) -> Limits:
        """A workflow's limits with these in their place where they are given."""
        given = {"max_time": self.max_time, "max_steps": self.max_steps, "max_tokens": self.max_tokens}
        return replace(own, **{name: value for name, value in given.items() if value is not None})

    def changed(self, given: Mapping[str, Any]) -> StepConfig:
        """The same but for what is given; nothing and 0 change nothing. Raises SpecError."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return StepConfig(**kept | {name: value for name, value in given.items() if value})
