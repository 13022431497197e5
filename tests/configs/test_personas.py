"""People for a simulation: as many as were asked for, no two alike."""

from __future__ import annotations

from pathlib import Path

from tests.configs.shipped import ran, rows_of, shipped


def test_as_many_people_as_asked_for_and_no_two_alike(tmp_path: Path) -> None:
    simulations = [{"simulation_description": text} for text in ("A strike at a harbour.", "A school moves.")]
    result = ran(shipped("personas", ["drawn.num_samples=12"], data=simulations), tmp_path)
    rows = rows_of(result)
    assert [row["simulation_description"] for row in rows] == [
        one["simulation_description"] for one in simulations for _ in range(12)
    ]
    for simulation in (rows[:12], rows[12:]):
        assert len({tuple(trait["value"] for trait in row["traits"]) for row in simulation}) == 12
        [names] = {tuple(trait["name"] for trait in row["traits"]) for row in simulation}
        assert len(names) == len(set(names)) == 6
    assert all(40 <= len(row["backstory"]) <= 2000 and 20 <= len(row["bio"]) <= 400 for row in rows)
    calls = {name: figures["calls_sent"] for name, figures in result.manifest["steps"].items()}
    assert (calls["variables"], calls["backstory"], calls["profile"]) == (2, 24, 24)


def test_a_larger_run_keeps_the_people_of_the_smaller(tmp_path: Path) -> None:
    few = rows_of(ran(shipped("personas", ["drawn.num_samples=5"]), tmp_path))
    more = ran(shipped("personas", ["drawn.num_samples=8"]), tmp_path)
    assert rows_of(more)[:5] == few
    assert more.manifest["legs"][-1]["steps"]["backstory"]["calls_sent"] == 3
    assert more.manifest["legs"][-1]["calls_sent"] == 6
