"""Reads what a run left, and brings it to Hugging Face. Knows nothing of how a run is made."""

from __future__ import annotations

from typing import Any

from raypipe.contracts.distilabel_names import missing
from raypipe.results.result import DryRun, HeldRows, PushOptions, Result, Rows

__all__ = ["DryRun", "HeldRows", "PushOptions", "Result", "Rows"]


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, __all__)
