"""A batch that is put away comes back as it was, and a disk that does not take it ends the run with a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import OutputError
from raypipe.execution.conductor.spill import end_spilled, read_spilled
from raypipe.pipeline import Pipeline
from raypipe.plan.plan import SPILLED
from raypipe.steps import LoadDataFromDicts, Step, StepInput


class Breaking(Step):
    """Stops the run at one of the last rows, and leaves no room for what the run has to write then."""

    parts: Path

    def process(self, inputs: StepInput) -> Any:
        if any(row["n"] == 2900 for row in inputs):
            raise ValueError("enough")
        yield inputs

    def unload(self) -> None:
        (self.parts / "beside").touch()


class Passing(Step):
    def process(self, inputs: StepInput) -> Any:
        yield inputs


def test_what_is_put_away_when_a_run_stops_and_cannot_be_written_is_said_in_a_sentence(
    engine: Any, tmp_path: Path
) -> None:
    parts = tmp_path / "out" / ".raypipe" / "work" / "parts"
    with Pipeline("full") as pipeline:
        seed = LoadDataFromDicts([{"n": number} for number in range(3000)], name="seed")
        seed >> Passing("beside")
        seed >> Breaking("breaking", parts=parts, on_error="stop") >> Passing("last")
    with pytest.raises(OutputError, match=r"^the folder .* cannot be written \(.*\); fix that and run again$"):
        pipeline.run(tmp_path / "out", engine=engine, load_groups=[["beside", "breaking"], ["last"]])


def test_what_was_put_away_and_is_gone_is_said_in_a_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / SPILLED.folder / "1.batch")
    for read in (lambda: read_spilled(path, tmp_path), lambda: end_spilled(path, tmp_path, "stopped")):
        with pytest.raises(OutputError, match=r"^the spilled batch .*1\.batch cannot be read \(No such file"):
            read()
