"""Rows that a worker lost end the run with a sentence; rows that move never do."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InfrastructureError
from raypipe.execution import conductor
from raypipe.execution.replica import Replica
from raypipe.execution.wire import Vitals
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, step

ROWS = 40


@step(inputs=["number"], outputs=["double"])
async def doubled(row: Values) -> dict[str, Any]:
    await asyncio.sleep(0.01 * row["number"])
    return {"double": 2 * row["number"]}


def pipeline() -> Pipeline:
    with Pipeline("watched") as watched:
        LoadDataFromDicts([{"number": number} for number in range(ROWS)], name="seed") >> doubled("doubled")
    return watched


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conductor, "_LOST_S", 0.5)
    monkeypatch.setattr(conductor, "_WATCH_EVERY_S", 0.05)


def test_rows_that_a_worker_lost_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(*_: Any) -> None:
        pass

    monkeypatch.setattr(Replica, "_enqueue", lose)
    with pytest.raises(InfrastructureError, match="no longer knows of"):
        pipeline().run(tmp_path / "out", engine="local")


def test_a_worker_that_is_always_found_idle_is_not_idle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vitals = Replica.vitals

    def idle(self: Replica) -> Vitals:
        return replace(vitals(self), held=0)

    monkeypatch.setattr(Replica, "vitals", idle)
    assert len(pipeline().run(tmp_path / "out", engine="local")["doubled"]) == ROWS
