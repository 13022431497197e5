"""What a run writes is readable by its owner alone, whoever writes it; an option leaves it to the umask."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.security.file_modes import SHARED, owner_only
from raypipe.steps import LoadDataFromDicts, Step, StepInput, TextGeneration
from tests.cli.conftest import tiny, written
from tests.loopback import serve

ROWS = 40


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def fine(body: Any) -> str:
    return "fine"


class Saving(Step):
    """Keeps a file beside its rows."""

    @property
    def inputs(self) -> list[str]:
        return ["generation"]

    @property
    def outputs(self) -> list[str]:
        return ["kept"]

    def process(self, inputs: StepInput) -> Any:
        self.save_artifact("said", lambda folder: (folder / "said.txt").write_text("said"), {"rows": len(inputs)})
        yield [{**row, "kept": row["generation"]} for row in inputs]


def pipeline(url: str, name: str = "private") -> Pipeline:
    from raypipe.contracts.llm import LLM

    with Pipeline(name) as made:
        seed = LoadDataFromDicts([{"topic": f"topic {number}"} for number in range(ROWS)], name="seed")
        llm = LLM("openai/x", base_url=url, max_tries=1)
        seed >> TextGeneration("texts", llm=llm, template="{{ topic }}", input_batch_size=5) >> Saving(name="kept")
    return made


def open_to_others(folder: Path) -> dict[str, str]:
    """Files and folders that somebody else could read, with their modes."""
    found = [folder, *folder.rglob("*")]
    modes = {str(path): stat.S_IMODE(path.lstat().st_mode) for path in found}
    wanted = {path: 0o700 if Path(path).is_dir() else 0o600 for path in modes}
    return {path: oct(mode) for path, mode in modes.items() if mode & 0o077 or mode & 0o700 != wanted[path]}


def test_a_run_is_readable_by_its_owner_alone(engine: Any, tmp_path: Path) -> None:
    with serve(answer=fine, shares={400: 0.2}) as server:
        made = pipeline(server.base_url)
        result = made.run(tmp_path / "out", engine=engine, calls=tmp_path / "calls", max_failed_rows=ROWS)
        assert open_to_others(tmp_path / "out") == {}
        assert open_to_others(tmp_path / "calls") == {}
        assert [path.name for path in (tmp_path / "calls").iterdir() if path.suffix == ".parquet"]
        assert result.failed_rows
        made.retry(tmp_path / "out", engine=engine)
        assert open_to_others(tmp_path / "out") == {}
    assert os.umask(0) == 0


def test_a_folder_that_was_open_is_closed_and_works_on(tmp_path: Path) -> None:
    with serve(answer=fine) as server:
        made = pipeline(server.base_url)
        made.run(tmp_path / "out", engine="local", shared=True)
        assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777
        sent = len(server.requests)
        made.run(tmp_path / "out", engine="local")
        assert len(server.requests) == sent
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "out" / "calls").stat().st_mode) == 0o700


@pytest.mark.parametrize("way", ["option", "environment"])
def test_a_shared_run_is_left_to_the_umask(
    engine: Any, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.umask(0o027)
    if way == "environment":
        monkeypatch.setenv(SHARED, "1")
    with serve(answer=fine) as server:
        options: Any = {"shared": True} if way == "option" else {}
        pipeline(server.base_url).run(tmp_path / "out", engine=engine, **options)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o750
    assert stat.S_IMODE((tmp_path / "out" / "manifest.json").stat().st_mode) == 0o640
    if engine == "local":
        modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out" / "data").rglob("*.parquet")}
        assert modes == {0o640}


def test_the_command_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from raypipe.cli.commands import app

    monkeypatch.chdir(tmp_path)
    written(tmp_path / "tiny.yaml", tiny())
    for words, mode in (([], 0o700), (["--shared"], 0o777)):
        shutil.rmtree("out", ignore_errors=True)
        result = CliRunner().invoke(app, ["run", "tiny.yaml", "--engine", "local", "--out", "out", *words])
        assert result.exit_code == 0, result.output
        assert stat.S_IMODE(Path("out").stat().st_mode) == mode


def test_what_is_saved_of_a_run_is_private_too(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with serve(answer=fine) as server:
        result = pipeline(server.base_url).run(tmp_path / "out", engine="local")
    result.save_to_disk(tmp_path / "saved")
    assert open_to_others(tmp_path / "saved") == {}
    assert isinstance(result, Result)


def test_blocks_that_overlap_leave_the_umask_as_it_was() -> None:
    first, second = owner_only(), owner_only()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert os.umask(0o077) == 0o077
    second.__exit__(None, None, None)
    assert os.umask(0) == 0
