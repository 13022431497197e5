"""What a run has paid for once it finds again, wherever its input stands and whatever stands beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import OutputError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromFiles, TextGeneration
from tests.compatibility.cases import CASES, INPUTS, RUNS, answer
from tests.loopback import serve


def about(url: str, *paths: Path, **model: Any) -> Pipeline:
    llm = LLM("openai/loopback", base_url=url, concurrency=4, **model)
    with Pipeline("about") as pipeline:
        seed = LoadDataFromFiles([str(path) for path in paths], name="seed")
        seed >> TextGeneration("said", llm=llm, template="about {{ topic }}", output="said")
    return pipeline


def rows(path: Path, *topics: str, start: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("n,topic\n" + "".join(f"{n},{topic}\n" for n, topic in enumerate(topics, start)))
    return path


def sent_for(url: Any, out: Path, engine: Any, *paths: Path, **model: Any) -> int:
    before = len(url.requests)
    result = about(url.base_url, *paths, **model).run(out, engine=engine)
    assert result.failed_rows == 0
    ids = result["said"].to_arrow()["_row_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    return len(url.requests) - before


def test_only_new_rows_are_sent(engine: Any, tmp_path: Path) -> None:
    topics = [f"topic {n}" for n in range(8)]
    inputs = tmp_path / "in"
    with serve() as server:
        assert sent_for(server, tmp_path / "out", engine, rows(inputs / "a.csv", *topics)) == 8
        moved = Path(shutil.move(inputs / "a.csv", inputs / "renamed.csv"))
        assert sent_for(server, tmp_path / "out", engine, moved) == 0
        rows(inputs / "added.csv", "new", "topic 3", start=3)  # (3, "new") and (4, "topic 3") are other rows
        assert sent_for(server, tmp_path / "out", engine, inputs) == 2
        rows(tmp_path / "second" / "renamed.csv", "topic 0", "more")  # (0, "topic 0") once more
        assert sent_for(server, tmp_path / "out", engine, inputs, tmp_path / "second") == 2
        with moved.open("a") as file:
            file.write("x,odd\n")  # the column of numbers becomes one of texts
        assert sent_for(server, tmp_path / "out", engine, inputs, tmp_path / "second") == 1
        assert sent_for(server, tmp_path / "out", engine, tmp_path / "second", inputs) == 0


def test_how_a_request_is_carried_does_not_count(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.csv", "one", "two")
    with serve() as server:
        assert sent_for(server, tmp_path / "out", "local", path) == 2
        assert sent_for(server, tmp_path / "out", "local", path, extra={"service_tier": "flex", "user": "me"}) == 0
        assert sent_for(server, tmp_path / "out", "local", path, extra={"frequency_penalty": 1}) == 2
        fresh = tmp_path / "other"
        assert sent_for(server, fresh, "local", path, extra={"service_tier": "flex"}) == 2
        assert server.requests[-1].body["service_tier"] == "flex"


def test_a_log_of_version_0_1_0_goes_on_as_it_began(engine: Any, tmp_path: Path) -> None:
    """Its calls are found by its rules; a new row costs its own call."""
    kept = Path(shutil.copytree(RUNS / "csv", tmp_path / "csv"))
    with serve(answer=answer) as server:
        CASES["csv"](server.base_url).run(kept, engine=engine)
        assert server.requests == []
        assert Result(kept).manifest["identity"] == 1
        more = tmp_path / "table.csv"
        more.write_text((INPUTS / "table.csv").read_text())
        first = more.read_text().splitlines()[1]
        more.write_text(more.read_text().rstrip("\n") + f"\n{first}\n")
        with Pipeline("csv") as pipeline:
            from raypipe.steps import LoadDataFromFileSystem

            llm = LLM("openai/loopback", base_url=server.base_url, concurrency=4, max_tries=1)
            seed = LoadDataFromFileSystem(data_files=[str(more)], name="seed")
            seed >> TextGeneration("said", llm=llm, template="about {{ topic }}", output="said")
        pipeline.run(kept, engine=engine)
        assert len(server.requests) == 1


def test_a_log_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = rows(tmp_path / "a.csv", "one")
    with serve() as server:
        assert sent_for(server, tmp_path / "out", "local", path) == 1
        mark = tmp_path / "out" / "calls" / "_identity.json"
        assert orjson.loads(mark.read_bytes()) == {"version": 2}
        mark.write_text('{"version": 3}')
        with pytest.raises(
            OutputError, match=r"version 3, and this raypipe knows 1 and 2; use the raypipe that wrote it"
        ):
            about(server.base_url, path).run(tmp_path / "out", engine="local")
        mark.write_text("{")
        with pytest.raises(OutputError, match=r"identity\.json"):
            about(server.base_url, path).run(tmp_path / "out", engine="local")
        assert len(server.requests) == 1
