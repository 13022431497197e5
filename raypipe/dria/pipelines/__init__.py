"""Dria's pipelines: `PipelineBuilder`, `StepTemplate` and their configuration."""

from __future__ import annotations

from raypipe.dria.pipelines.builder import PipelineBuilder
from raypipe.dria.pipelines.config import PipelineConfig, StepConfig
from raypipe.dria.pipelines.pipeline import Pipeline
from raypipe.dria.pipelines.template import StepTemplate
from raypipe.dria.tasks import Step

__all__ = ["Pipeline", "PipelineBuilder", "PipelineConfig", "Step", "StepConfig", "StepTemplate"]
