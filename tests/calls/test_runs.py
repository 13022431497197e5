"""A run over a log that is damaged ends well, asks again for what is lost alone, and says what that is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raypipe.calls.index import load_index
from raypipe.cli.summary import summary
from raypipe.errors import OutputError
from tests.acceptance.chain import answer, chain, topics
from tests.loopback import serve

ROWS = 4


def test_a_run_says_what_of_its_log_is_damaged(tmp_path: Path, engine: str) -> None:
    out = tmp_path / "out"
    with serve(answer=answer) as server:
        pipeline = chain(server.base_url, topics(ROWS))
        before = pipeline.run(out, engine=engine)  # type: ignore[arg-type]
        assert before.manifest["call_log"] == {"damaged": []}
        [path] = (out / "calls").glob("calls-*")
        os.truncate(path, path.stat().st_size - 9)
        rows = before["third"].to_arrow().to_pylist()
        result = pipeline.run(out, engine=engine)  # type: ignore[arg-type]
        assert len(server.requests) == 6 * ROWS
    assert result["third"].to_arrow().to_pylist() == rows
    [damage] = result.manifest["call_log"]["damaged"]
    assert (damage["file"], damage["calls"], damage["kept"]) == (path.name, 3 * ROWS, f"damaged/{path.name}")
    said = f"the file {path.name} of the call log is cut, damaged or no Parquet file"
    assert any(line.startswith(said) and f"{3 * ROWS} calls lost" in line for line in summary(result))


def test_a_file_that_may_not_be_read_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = tmp_path / "calls-00000000000000000001-00000000.parquet"
    path.mkdir()
    with pytest.raises(OutputError, match=f"the file {path} of the call log cannot be read: Is a directory"):
        load_index(tmp_path, is_kept=True)
    assert path.is_dir()
