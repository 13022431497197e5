"""What a step loaded is unloaded once its worker is done, whatever became of the run."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InfrastructureError, InputError, StoppedError
from raypipe.pipeline import Pipeline
from raypipe.steps import GeneratorStep, GlobalStep, KeepColumns, LoadDataFromDicts, Step, StepInput
from tests.books import user_rows


class Noting(Step):
    """Notes in a file what is called."""

    notes: str
    breaks: str = ""

    def note(self, what: str) -> None:
        with open(self.notes, "a") as file:
            file.write(f"{what}\n")
        if self.breaks == what:
            raise ValueError(what)

    def load(self) -> None:
        self.note("load")

    def unload(self) -> None:
        self.note("unload")

    def process(self, inputs: StepInput) -> Any:
        self.note("process")
        yield inputs


class NotingGlobal(GlobalStep):
    notes: str
    breaks: str = ""

    load, unload, note = Noting.load, Noting.unload, Noting.note

    def process(self, inputs: StepInput) -> Any:
        yield inputs


class NotingSource(GeneratorStep):
    notes: str
    breaks: str = ""

    load, unload, note = Noting.load, Noting.unload, Noting.note

    def process(self, offset: int = 0) -> Any:
        self.note("process")
        for number in range(20):
            yield [{"n": number}], False


def noting(kind: Any, tmp_path: Path, **options: Any) -> tuple[Pipeline, Path]:
    notes = tmp_path / "notes"
    with Pipeline("noting") as pipeline:
        made = kind("noting", notes=str(notes), **options)
        if issubclass(kind, GeneratorStep):
            made >> KeepColumns("kept", columns=["n"])
        else:
            LoadDataFromDicts([{"n": 1}, {"n": 2}]) >> made
    return pipeline, notes


class Dying(Noting):
    """Takes its first worker down."""

    def process(self, inputs: StepInput) -> Any:
        if Path(self.notes).read_text().split() == ["load"]:
            os._exit(1)
        yield inputs


@pytest.mark.ray
def test_a_step_is_unloaded_by_the_worker_that_took_the_place_of_a_lost_one(tmp_path: Path) -> None:
    pipeline, notes = noting(Dying, tmp_path)
    assert len(pipeline.run(tmp_path / "out", engine="ray")["default"]) == 2
    assert notes.read_text().split() == ["load", "load", "unload"]


@pytest.mark.parametrize("kind", [Noting, NotingGlobal, NotingSource])
def test_a_step_is_unloaded_once_after_its_last_rows(engine: Any, tmp_path: Path, kind: Any) -> None:
    pipeline, notes = noting(kind, tmp_path)
    pipeline.run(tmp_path / "out", engine=engine)
    called = notes.read_text().split()
    assert called.count("load") == called.count("unload") == 1
    assert (called[0], called[-1]) == ("load", "unload")


def test_a_source_that_is_not_read_to_its_end_is_unloaded_too(tmp_path: Path) -> None:
    pipeline, notes = noting(NotingSource, tmp_path)
    assert user_rows(pipeline.dry_run(batch_size=2)["kept"]) == [{"n": 0}, {"n": 1}]
    assert notes.read_text().split() == ["load", "process", "unload"]


def test_a_step_whose_rows_failed_is_unloaded(tmp_path: Path) -> None:
    pipeline, notes = noting(Noting, tmp_path, breaks="process")
    assert pipeline.run(tmp_path / "out", engine="local").failed_rows == 2
    assert notes.read_text().split()[-1] == "unload"


@pytest.mark.parametrize(("kind", "error"), [(NotingSource, InputError), (Noting, StoppedError)])
def test_a_step_of_a_run_that_ends_early_is_unloaded(tmp_path: Path, kind: Any, error: Any) -> None:
    pipeline, notes = noting(kind, tmp_path, breaks="process", **({"on_error": "stop"} if kind is Noting else {}))
    with pytest.raises(error):
        pipeline.run(tmp_path / "out", engine="local")
    assert notes.read_text().split().count("unload") == 1


def test_what_was_not_loaded_is_not_unloaded(tmp_path: Path) -> None:
    pipeline, notes = noting(Noting, tmp_path, breaks="load")
    with pytest.raises(InfrastructureError, match="cannot be loaded"):
        pipeline.run(tmp_path / "out", engine="local")
    assert notes.read_text().split() == ["load"]


@pytest.mark.parametrize("kind", [Noting, NotingSource])
def test_an_unload_that_raises_loses_nothing_and_is_said(
    engine: Any, tmp_path: Path, kind: Any, caplog: pytest.LogCaptureFixture
) -> None:
    pipeline, _ = noting(kind, tmp_path, breaks="unload")
    with caplog.at_level(logging.WARNING, "raypipe"):
        result = pipeline.run(tmp_path / "out", engine=engine)
    assert len(result["default"]) == (20 if kind is NotingSource else 2)
    assert result.failed_rows == 0
    if engine == "local":
        assert "step 'noting' could not be unloaded: ValueError: unload" in caplog.text
