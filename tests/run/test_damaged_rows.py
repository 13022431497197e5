"""A bit that flips in a part, or in rows that a retry would carry over, never becomes another row."""

from __future__ import annotations

import asyncio
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InputError, OutputError, RowError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, step
from tests.loopback import Loopback
from tests.pipelines import asking

ROWS = 200
MANY = 1024 + 10
"""Of two batches."""


def pipeline(below: int) -> Pipeline:
    """Rows of which those below a number fail."""

    @step(inputs=["n"], outputs=["m", "text"])
    def checked(row: Values) -> dict[str, Any]:
        if row["n"] < below:
            raise RowError("too small")
        return {"m": row["n"] * 1000, "text": f"the number {row['n']}"}

    with Pipeline("damaged") as made:
        LoadDataFromDicts([{"n": n} for n in range(ROWS)], name="seed").connect(checked("checked"))
    return made


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at // 8 % len(content)] ^= 1 << at % 8
    path.write_bytes(content)


def rows(out: Path) -> list[tuple[int, int, str]]:
    found = Result(out)["default"].to_arrow().select(["n", "m", "text"]).to_pylist()
    return [(row["n"], row["m"], row["text"]) for row in found]


RIGHT = [(n, n * 1000, f"the number {n}") for n in range(ROWS)]


@pytest.mark.parametrize("name", ["data/checked/part-00000.parquet", "failures/part-00000.parquet"])
def test_a_retry_carries_no_damaged_row_over(tmp_path: Path, name: str) -> None:
    base, out, chance = tmp_path / "base", tmp_path / "out", random.Random(15)
    pipeline(5).run(base, engine="local")
    for _ in range(40):
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(base, out)
        flip(out / name, chance.randrange((out / name).stat().st_size * 8))
        damaged = (out / name).read_bytes()
        with pytest.raises(InputError, match=f"{name.split('/')[0]}"):
            pipeline(0).retry(out, engine="local")
        assert (out / name).read_bytes() == damaged, "nothing was changed"
    pipeline(0).run(out, engine="local")
    assert rows(out) == RIGHT


def test_a_sound_retry_leaves_files_that_the_next_one_trusts(tmp_path: Path) -> None:
    for below in (9, 5, 2, 0):
        made = pipeline(below)
        _ = made.run(tmp_path, engine="local") if below == 9 else made.retry(tmp_path, engine="local")
    assert rows(tmp_path) == RIGHT


def test_rows_of_a_damaged_part_are_made_again_from_the_log(tmp_path: Path, server: Loopback) -> None:
    out, chance = tmp_path / "out", random.Random(15)
    flips = [chance.randrange(10**9)]

    @step(inputs=["n"], outputs=["m"])
    async def meddling(row: Values) -> dict[str, Any]:
        """The last row meddles with what is written of those before it."""
        while flips and row["n"] == MANY - 1:
            for written in out.glob(".raypipe/work/parts/**/*.parquet"):
                flip(written, flips.pop())
                break
            await asyncio.sleep(0.02)
        return {"m": row["n"]}

    with Pipeline("meddling") as made:
        source = LoadDataFromDicts([{"n": n} for n in range(MANY)], name="seed")
        source.connect(asking(server, "asked", "{{ n }}"))
        made.steps[-1].connect(meddling("meddling"))
    with pytest.raises(OutputError, match=r"the part .* is damaged: what is in it is not what was written to it"):
        made.run(out, engine="local")
    assert not (out / "manifest.json").exists()
    sent = len(server.requests)
    assert sent == MANY
    result = made.run(out, engine="local")
    assert result["default"].to_arrow()["n"].to_pylist() == list(range(MANY))
    assert len(server.requests) == sent
