"""A row, its identity, its failure.

A row is columns plus lineage. Lineage travels as columns of the same Arrow table, named
here; user columns never carry these names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

ROW_ID = "_row_id"
"""16-byte identity of the row (hexadecimal text in the output)."""
ANCESTORS = "_ancestors"
"""Identities from the source row down to the parent; empty for a source row."""
POSITION = "_position"
"""Position of the source row in the source: unit number * 2**40 + offset in the unit."""
PATH = "_path"
"""Index of the row among its siblings, one number for each ancestor."""
BATCH = "_batch"
"""Number of the batch of source rows the row comes from; only while a stage runs."""
ATTEMPT = "_attempt"
"""How many workers died while they held the row; only while a stage runs."""
MODEL_NAME = "model_name"
"""Column of the model that answered; a user's as any other."""
METADATA = "distilabel_metadata"
"""Column of what steps kept of their calls, as a mapping; a user's as any other, but that steps add to it."""
GROUP = "~group"
"""Key of the group that a row belongs to; only between stages, where rows wait for all others of their group."""
GROUP_ID = "~group_id"
"""16-byte identity that the row of the group will have; only there."""
MEMBERS = "~members"
"""Lineage of the rows that a row stands for which a step is given all at once; only on the way to that step."""
SOURCE_ID = "_source_id"
PARENT_ID = "_parent_id"

LINEAGE = (ROW_ID, ANCESTORS, POSITION, PATH, BATCH, ATTEMPT, GROUP, GROUP_ID, MEMBERS)
"""Lineage columns while a stage runs, and between two."""
OUTPUT_LINEAGE = (ROW_ID, PARENT_ID, SOURCE_ID, POSITION, PATH)
"""Lineage columns of an output file."""
RESERVED = frozenset(LINEAGE + OUTPUT_LINEAGE)
ROUTE = "~route"
"""Column of the steps that a row goes to; only on the way out of a step that says where its rows go."""
KEPT_NAMES = RESERVED | {ROUTE}
"""Names that no column of a user's may have."""

Values = Mapping[str, Any]
"""The columns of one row."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a row did not pass a step. `tries` counts the model calls made for the row."""

    kind: str
    message: str
    tries: int = 0
