"""Files that steps save beside their rows: whole, committed with the rows, and gone with them."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import OutputError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import GeneratorStep, GlobalStep, LoadDataFromDicts, Step, StepInput, StepResources
from raypipe.storage.artifacts import Artifact, ArtifactStore, list_artifacts
from tests.books import user_rows


class Numbers(GeneratorStep):
    """Saves what it reads from."""

    @property
    def outputs(self) -> list[str]:
        return ["n"]

    def process(self, offset: int = 0) -> Any:
        self.save_artifact("origin", lambda folder: (folder / "origin.txt").write_text("0 to 9"))
        yield [{"n": number} for number in range(10)], True


class Report(GlobalStep):
    """Saves a report of all rows when it works, and another when it is unloaded."""

    def process(self, inputs: StepInput) -> Any:
        self.save_artifact(
            "report", lambda folder: (folder / "all.txt").write_text(str(len(inputs))), metadata={"rows": len(inputs)}
        )
        yield inputs

    def unload(self) -> None:
        self.save_artifact("end", lambda folder: (folder / "end.txt").write_text("done"))


class Saving(Step):
    """Saves under the name that its rows say, and fails for a row that says so."""

    def process(self, inputs: StepInput) -> Any:
        for row in inputs:
            if row.get("name") is not None:
                self.save_artifact(row["name"], lambda folder, row=row: (folder / "row").write_text(str(row["n"])))
            if row.get("breaks"):
                raise ValueError("broken")
        yield inputs


def saving(rows: list[dict[str, Any]], **options: Any) -> Pipeline:
    with Pipeline("saving") as pipeline:
        LoadDataFromDicts(rows) >> Saving("saving", input_batch_size=1, **options)
    return pipeline


def contents(result: Result) -> dict[str, str]:
    return {
        f"{one.step}/{one.name}/{file.relative_to(one.path)}": file.read_text()
        for one in list_artifacts(result.artifacts_path)
        for file in one.files
    }


def test_what_steps_save_is_beside_the_rows(engine: Any, tmp_path: Path) -> None:
    with Pipeline("saving") as pipeline:
        Numbers("numbers") >> Saving("several", resources=StepResources(replicas=2)) >> Report("report")
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert len(user_rows(result["default"])) == 10
    assert contents(result) == {
        "numbers/origin/origin.txt": "0 to 9",
        "report/end/end.txt": "done",
        "report/report/all.txt": "10",
    }
    assert result.artifacts["report"]["report"].metadata == {"rows": 10}
    assert result.artifacts["report"]["end"].metadata == {}


def test_the_artifacts_of_a_run_take_the_place_of_those_before(tmp_path: Path) -> None:
    first = saving([{"n": 1, "name": "a"}, {"n": 2, "name": "b"}]).run(tmp_path / "out", engine="local")
    assert contents(first) == {"saving/a/row": "1", "saving/b/row": "2"}
    second = saving([{"n": 3, "name": "b"}]).run(tmp_path / "out", engine="local")
    assert contents(second) == {"saving/b/row": "3"}
    third = saving([{"n": 3, "name": None}]).run(tmp_path / "out", engine="local")
    assert (third.artifacts, third.artifacts_path.exists()) == ({}, False)


def test_a_retry_keeps_what_it_does_not_save_again(tmp_path: Path) -> None:
    class Once(Saving):
        """Fails until it is mended."""

        mended: Path

        def process(self, inputs: StepInput) -> Any:
            given = [row | {"breaks": row["breaks"] and not self.mended.exists()} for row in inputs]
            yield from super().process(given)

    with Pipeline("saving") as pipeline:
        rows = [{"n": 1, "name": "a", "breaks": False}, {"n": 2, "name": "b", "breaks": True}]
        LoadDataFromDicts(rows) >> Once("saving", mended=tmp_path / "mended", input_batch_size=1)
    assert pipeline.run(tmp_path / "out", engine="local", max_failed_rows=1).failed_rows == 1
    (tmp_path / "mended").touch()
    (tmp_path / "out" / "artifacts" / "saving" / "a" / "kept").touch()
    result = pipeline.retry(tmp_path / "out", engine="local")
    assert result.failed_rows == 0
    assert contents(result) == {"saving/a/kept": "", "saving/a/row": "1", "saving/b/row": "2"}


def test_workers_that_save_the_same_leave_one_of_them_whole(tmp_path: Path) -> None:
    artifacts = ArtifactStore(tmp_path / "artifacts", "step")
    together = threading.Barrier(4)

    def work(number: int) -> None:
        def write(folder: Path) -> None:
            for file in range(20):
                (folder / str(file)).write_text(str(number))

        together.wait()
        for _ in range(10):
            artifacts.save("same", write, {"worker": number})

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    [artifact] = list_artifacts(tmp_path / "artifacts")
    assert isinstance(artifact, Artifact)
    assert [file.read_text() for file in artifact.files] == [str(artifact.metadata["worker"])] * 20
    assert list((tmp_path / "artifacts-unfinished").iterdir()) == []


def test_what_is_not_written_to_its_end_leaves_what_was_there(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "row").write_text("half")
        raise ValueError("half")

    artifacts = ArtifactStore(tmp_path / "artifacts", "step")
    artifacts.save("one", lambda folder: (folder / "row").write_text("whole"), None)
    with pytest.raises(ValueError, match="half"):
        artifacts.save("one", half, None)
    [artifact] = list_artifacts(tmp_path / "artifacts")
    assert [file.read_text() for file in artifact.files] == ["whole"]


def test_a_disk_that_does_not_take_an_artifact_stops_the_run_with_a_sentence(tmp_path: Path) -> None:
    class Full(Step):
        def process(self, inputs: StepInput) -> Any:
            self.save_artifact("one", lambda folder: (folder / "none" / "row").write_text("x"))
            yield inputs

    with Pipeline("full") as pipeline:
        LoadDataFromDicts([{"n": 1}]) >> Full("full")
    with pytest.raises(OutputError, match=r"^the artifact 'one' of step 'full' cannot be written: .*again$"):
        pipeline.run(tmp_path / "out", engine="local")


@pytest.mark.parametrize("name", ["../a", "", ".a", "a/b", "a b"])
def test_a_name_that_is_none_stops_the_run(name: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="step 'saving': saves an artifact as"):
        saving([{"n": 1, "name": name}]).run(tmp_path / "out", engine="local")


def test_metadata_that_json_cannot_hold_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="step 'one': saves the artifact 'a' with metadata that JSON cannot hold"):
        ArtifactStore(tmp_path, "one").save("a", lambda folder: None, {"a": object()})


def test_outside_of_a_run_nothing_is_saved_and_that_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    made = Saving("saving")
    with caplog.at_level(logging.WARNING, "raypipe"):
        assert list(made.process([{"n": 1, "name": "a"}])) == [[{"n": 1, "name": "a"}]]
    assert "step 'saving' is not at work in a run, so its artifact 'a' is not saved" in caplog.text
    pipeline = saving([{"n": 1, "name": "a"}])
    pipeline.run(tmp_path / "out", engine="local")
    caplog.clear()
    list(pipeline.steps[1].process([{"n": 1, "name": "b"}]))  # type: ignore[attr-defined]
    assert "not saved" in caplog.text
