"""Lineage columns have names of their own, and a failure is a plain value."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from raypipe.row import LINEAGE, OUTPUT_LINEAGE, RESERVED, Failure


def test_lineage_names_are_distinct_and_kept_from_users() -> None:
    assert len(set(LINEAGE)) == len(LINEAGE)
    assert len(set(OUTPUT_LINEAGE)) == len(OUTPUT_LINEAGE)
    assert set(LINEAGE) | set(OUTPUT_LINEAGE) == RESERVED
    assert all(name.startswith(("_", "~")) for name in RESERVED)


def test_a_failure_is_a_value() -> None:
    failure = Failure("parse", "no list", 2)
    assert pickle.loads(pickle.dumps(failure)) == failure == Failure("parse", "no list", 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        failure.kind = "other"
