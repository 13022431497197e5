"""The configuration of a pipeline and its steps. Knows nothing of how they run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from raypipe.contracts.declaration import Spec
from raypipe.steps.idle_options import warn_idle


class _Options(Spec):
    """Options of Dria's, of which some change nothing here."""

    idle: ClassVar[Mapping[str, str]] = {}
    """Those that change nothing, and why: whoever gives one is warned."""

    @model_validator(mode="after")
    def _warn_of_idle_options(self) -> Self:
        for name, reason in self.idle.items():
            if name in self.model_fields_set and getattr(self, name) is not None:
                warn_idle(type(self).__name__, name, reason)
        return self


class PipelineConfig(_Options):
    """Dria's options of waiting for its network. They change nothing here, and a warning says so.

    Nothing is polled, and a run has no deadline; `StepTemplate.set_workflow_params` limits the time of each task.
    """

    idle: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("retry_interval", "pipeline_timeout", "step_timeout"),
        "nothing is polled; set_workflow_params(max_time=…) limits each task",
    )

    retry_interval: float = Field(default=2, ge=0)
    pipeline_timeout: float = Field(default=0, ge=0)
    step_timeout: float = Field(default=60, ge=0)


class StepConfig(_Options):
    """Models and limits of a step. Limits that are not given are those of its workflow."""

    idle: ClassVar[Mapping[str, str]] = {"min_compute": "no task is left out for being slow"}

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

    def update(self, given: Mapping[str, Any]) -> StepConfig:
        """A copy with the options that are given; `None`, 0 and an empty list change nothing. Raises SpecError."""
        kept = {name: getattr(self, name) for name in type(self).model_fields}
        return StepConfig(**kept | {name: value for name, value in given.items() if value})
