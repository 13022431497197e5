"""Stands in for a model without key, network or cost: answers follow the prompt's own words and schema.

Knows nothing of the right answer: one has the form that was asked for, and is the same for the same request on every
machine.
"""

from __future__ import annotations

from raypipe.models.offline.adapter import OfflineModel, OfflineOptions
from raypipe.models.offline.schema import value_for

__all__ = ["OfflineModel", "OfflineOptions", "value_for"]
