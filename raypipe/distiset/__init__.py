"""I bring the datasets of a run to Hugging Face: as `datasets`, as a folder of them, and on the hub.

I do not know how a run is made, only what its folder holds.
"""

from __future__ import annotations

from raypipe.distiset.card import Committed, card
from raypipe.distiset.hub import Upload, push
from raypipe.distiset.saving import check_saved, dataset_of, dataset_of_table, row_count, save, split, table_of

__all__ = [
    "Committed",
    "Upload",
    "card",
    "check_saved",
    "dataset_of",
    "dataset_of_table",
    "push",
    "row_count",
    "save",
    "split",
    "table_of",
]
