"""Pools get more workers while rows wait, and fewer when they have none."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.execution.conductor.scaling import GROW_AFTER_S, IDLE_S, Scaler
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration


@dataclass
class Workers:
    """A pool whose workers are names."""

    fewest: int
    most: int
    made: int = 0
    ended: list[str] = field(default_factory=list)
    is_broken: bool = False

    async def grow(self) -> Any:
        if self.is_broken:
            raise InfrastructureError("there is no room")
        self.made += 1
        return SimpleNamespace(name=f"worker {self.made}")

    async def shrink(self, worker: Any) -> None:
        self.ended.append(worker.name)


class House:
    """One pool, its queue and its slots, for a scaler to look at."""

    def __init__(self, pool: Workers) -> None:
        self.pool, self.slots, self.errors = pool, list[Any](), list[RaypipeError]()
        self.queue = SimpleNamespace(pool="pool", rows=0)
        self.tasks: list[asyncio.Task[None]] = []
        pools: Any = {"pool": pool}
        queues: Any = {"step": self.queue}
        told = (self.begin, self.end, self.start, self.errors.append)
        self.scaler = Scaler(pools, queues, self.slots, *told)

    def begin(self, pool: str, worker: Any) -> None:
        window = SimpleNamespace(rows=0)
        self.slots.append(SimpleNamespace(pool=pool, worker=worker, window=window, has_room=True, is_away=False))

    def end(self, slot: Any) -> None:
        self.slots.remove(slot)

    def start(self, work: Coroutine[None, None, None]) -> None:
        self.tasks.append(asyncio.ensure_future(work))

    async def look(self, now: float) -> int:
        """How many workers there are after a look at this time."""
        self.scaler.look(now)
        await asyncio.gather(*self.tasks)
        return len(self.slots)


def test_more_are_started_while_rows_wait_and_none_has_room() -> None:
    async def seen() -> list[int]:
        house = House(Workers(0, 2))
        found = [await house.look(0.0)]
        house.queue.rows = 9
        found.append(await house.look(1.0))
        found.append(await house.look(2.0 + GROW_AFTER_S))
        for slot in house.slots:
            slot.has_room = False
        found.append(await house.look(3.0))
        found.append(await house.look(3.0 + GROW_AFTER_S))
        for slot in house.slots:
            slot.has_room = False
        await house.look(9.0)
        found.append(await house.look(9.0 + 2 * GROW_AFTER_S))
        return found

    assert asyncio.run(seen()) == [0, 1, 1, 1, 2, 2]


def test_those_that_are_idle_are_ended_down_to_the_fewest() -> None:
    async def seen() -> tuple[list[int], list[str]]:
        house = House(Workers(1, 3))
        for number in range(3):
            house.begin("pool", SimpleNamespace(name=f"first {number}"))
        house.slots[1].window.rows = 1
        found = [await house.look(0.0), await house.look(IDLE_S - 1), await house.look(IDLE_S)]
        house.slots[0].window.rows = 0
        found += [await house.look(IDLE_S + 1), await house.look(5 * IDLE_S)]
        return found, house.pool.ended

    assert asyncio.run(seen()) == ([3, 3, 1, 1, 1], ["first 0", "first 2"])


def test_what_cannot_be_started_stops_the_run_only_where_nobody_works() -> None:
    async def seen(slots: int) -> list[RaypipeError]:
        house = House(Workers(0, 3, is_broken=True))
        for number in range(slots):
            house.begin("pool", SimpleNamespace(name=f"first {number}"))
            house.slots[-1].has_room = False
        house.queue.rows = 1
        for now in (0.0, 1.0 + GROW_AFTER_S):
            await house.look(now)
        return house.errors

    assert [str(error) for error in asyncio.run(seen(0))][:1] == ["there is no room"]
    assert asyncio.run(seen(1)) == []


@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_pool_that_begins_with_no_worker_makes_all_rows(engine: Any, tmp_path: Path, request: Any) -> None:
    if engine == "ray":
        request.getfixturevalue("ray_session")
    llm = LLM("offline/a", concurrency=6, replicas=(0, 3), options={"latency_s": 0.1})
    with Pipeline("scaled") as pipeline:
        rows = LoadDataFromDicts([{"instruction": f"word {number}"} for number in range(60)])
        rows >> TextGeneration("asked", llm=llm)
    assert "0 to 3 × 2 in flight" in pipeline.plan().describe()
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert len(result["asked"]) == 60
    assert result.failed_rows == 0
