"""Each ending of a command has its exit code and says why in sentences, never with a traceback."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import Command, tiny, written

_BROKEN_SOURCE = """
from raypipe.pipeline import Pipeline
from raypipe.contracts.step import Source

class Broken(Source):
    def columns(self):
        raise {error}

with Pipeline("broken") as pipeline:
    Broken("seed")
"""


_BROKEN_READ = """
import pyarrow as pa
from raypipe.pipeline import Pipeline
from raypipe.contracts.step import Source, Unit

class Broken(Source):
    def units(self):
        return [Unit("")]

    def read(self, unit):
        yield pa.table({"a": [1]})
        raise RuntimeError("no way out")

with Pipeline("broken") as pipeline:
    Broken("seed")
"""


def broken(folder: Path, error: str) -> Path:
    path = folder / "broken.py"
    path.write_text(_BROKEN_SOURCE.format(error=error))
    return path


def rejecting(folder: Path) -> Path:
    """A file whose texts all fail."""
    spec = tiny()
    spec["models"]["refuser"] = {"uri": "offline/no", "options": {"reject_share": 1.0}}
    spec["steps"][2]["llm"] = "refuser"
    return written(folder / "rejecting.yaml", spec)


def test_all_rows_end_in_0(command: Command, spec: Path):
    result = command("run", spec, "--engine", "local", "--out", "here")
    assert (result.exit_code, result.stderr) == (0, "")
    assert pq.read_table(Path("here/data/texts")).column("generation").to_pylist() == ["fine"] * 6


def test_the_run_folder_is_named_after_the_pipeline(command: Command, spec: Path):
    assert command("run", spec, "--engine", "local").exit_code == 0
    assert Path("out/tiny/manifest.json").is_file()


def test_a_bad_pipeline_ends_in_1_with_all_violations(command: Command, tmp_path: Path):
    plain = tiny()
    plain["steps"][1]["pars"] = 1
    plain["steps"][2]["template"] = "{{ part"
    result = command("run", written(tmp_path / "bad.yaml", plain), "--engine", "local")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith("error: ")
    assert "'pars' (did you mean 'parse'?)" in first
    assert second.startswith("error: ")
    assert "'texts'" in second


def test_an_input_that_is_not_there_ends_in_1(command: Command, spec: Path):
    result = command("run", spec, "--engine", "local", "--input", "topics.jsonl")
    assert result.exit_code == 1
    assert "topics.jsonl' is not there" in result.stderr


def test_a_folder_of_somebody_else_ends_in_1(command: Command, spec: Path):
    Path("here").mkdir()
    Path("here/thesis.tex").touch()
    result = command("run", spec, "--engine", "local", "--out", "here")
    assert result.exit_code == 1
    assert "is not empty and holds no raypipe run" in result.stderr
    assert [path.name for path in Path("here").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["rum", "x.yaml"],
        ["run", "x.yaml", "--engin", "local"],
        ["run", "x.yaml", "--engine", "spark"],
        ["run", "x.yaml", "--max-failed-rows", "-1"],
        ["run", "x.yaml", "--max-failure-rate", "0"],
        ["run", "x.yaml", "--max-failure-rate", "1.01"],
        ["run", "x.yaml", "--max-failure-rate", "nan"],
        ["retry", "x", "--max-failure-rate", "none"],
        ["run", "x.yaml", "--engine", "local", "--address", "10.0.0.1:6379"],
        ["dry-run", "x.yaml", "--rows", "0"],
        ["run"],
        [],
    ],
)
def test_a_bad_command_line_ends_in_2(command: Command, arguments: list[str]):
    result = command(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.output


def test_failed_rows_end_in_3_with_the_others_written(command: Command, tmp_path: Path):
    arguments = ("run", rejecting(tmp_path), "--engine", "local", "--out", "here")
    result = command(*arguments)
    assert result.exit_code == 3
    assert result.stdout.splitlines()[-1] == "6 rows failed; why: raypipe failures here"
    assert pq.read_table(Path("here/data/texts")).num_rows == 0
    assert command(*arguments, "--max-failed-rows", 5).exit_code == 3
    assert command(*arguments, "--max-failed-rows", 6).exit_code == 0


def test_rows_that_fail_alike_end_in_4_unless_they_may(command: Command, tmp_path: Path):
    plain = tiny()
    plain["models"]["writer"]["options"] = {"reject_share": 1.0}
    plain["steps"][0]["data"] = [{"topic": str(number)} for number in range(60)]
    arguments = ("run", written(tmp_path / "alike.yaml", plain), "--engine", "local", "--out", "here")
    stopped = command(*arguments)
    assert stopped.exit_code == 4
    assert "step 'parts' fails for one kind of reason (rejected): the first 20 rows all failed" in stopped.stderr
    assert command(*arguments, "--max-failure-rate", "off").exit_code == 3
    words = ["retry", "here", "--engine", "local", "--spec", arguments[1]]
    assert command(*words).exit_code == 3
    assert command(*words, "--max-failure-rate", "1").exit_code == 4


def test_ctrl_c_ends_in_4(command: Command, tmp_path: Path):
    result = command("run", broken(tmp_path, "KeyboardInterrupt"), "--engine", "local")
    assert result.exit_code == 4
    assert result.stderr.startswith("error: stopped")
    assert "Traceback" not in result.stderr


def test_a_cluster_that_is_not_there_ends_in_5(command: Command, spec: Path):
    loaded = "ray" in sys.modules
    result = command("run", spec, "--engine", "ray", "--address", "127.0.0.1:1")
    assert result.exit_code == 5
    assert result.stderr.startswith("error: no Ray cluster can be reached at '127.0.0.1:1'")
    assert ("ray" in sys.modules) == loaded


def test_what_nobody_expected_ends_in_70_in_one_sentence(command: Command, tmp_path: Path):
    result = command("validate", broken(tmp_path, 'RuntimeError("no way\\nout")'))
    assert result.exit_code == 70
    assert result.stderr.count("\n") == 1
    assert "please report it" in result.stderr
    assert "(RuntimeError: no way out)" in result.stderr


@pytest.mark.parametrize(
    ("error", "told"), [("AssertionError", "(AssertionError)"), ('ValueError(" no\\n")', "(ValueError: no)")]
)
def test_what_nobody_expected_is_told_without_the_space_around_its_words(
    command: Command, tmp_path: Path, error: str, told: str
):
    result = command("validate", broken(tmp_path, error))
    assert result.exit_code == 70
    assert f"unexpected error {told}; " in result.stderr


def test_what_breaks_while_it_runs_is_told_once(command: Command, tmp_path: Path):
    (tmp_path / "broken.py").write_text(_BROKEN_READ)
    result = command("run", "broken.py", "--engine", "local")
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert "step 'seed' cannot read its rows: RuntimeError: no way out (broken.py:" in result.stderr


def test_a_traceback_shows_when_it_is_asked_for(command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAYPIPE_DEBUG", "1")
    result = command("validate", broken(tmp_path, 'RuntimeError("no way")'))
    assert result.exit_code == 70
    assert "Traceback" in result.stderr


def test_the_version_is_printed(command: Command):
    result = command("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("raypipe")


def test_a_budget_that_is_spent_ends_in_4_and_says_how_to_go_on(
    command: Command, spec: Path, monkeypatch: pytest.MonkeyPatch
):
    arguments = ("run", "tiny.yaml", "--engine", "local", "--out", "here", "--max-calls")
    monkeypatch.setattr(sys, "argv", ["raypipe", *arguments, "4"])
    result = command(*arguments, 4)
    assert result.exit_code == 4
    told, resume = result.stderr.splitlines()
    assert re.fullmatch(r"error: max_calls=4 is reached; \d finished rows are in .*/here", told)
    assert resume == f"to go on (with a higher cap): raypipe {' '.join(arguments)} 4"
    assert command(*arguments, 9).exit_code == 0
    assert pq.read_table(Path("here/data/texts")).num_rows == 6


def test_prices_come_from_a_file_too(command: Command, spec: Path, tmp_path: Path):
    prices = tmp_path / "prices.yaml"
    prices.write_text("offline/stand-in: [1000000, 0]\n")
    arguments = ("run", spec, "--engine", "local", "--out", "here", "--prices", prices)
    assert command(*arguments, "--max-cost-usd", 0.5).exit_code == 4
    assert command(*arguments).exit_code == 0
    [model] = json.loads(Path("here/manifest.json").read_text())["models"].values()
    assert model["cost_usd"] == model["input_tokens"] > 0
    prices.write_text("offline/stand-in: 3\n")
    result = command(*arguments)
    assert result.exit_code == 1
    assert "must be a mapping of provider/model to [input, output]" in result.stderr


def test_a_retry_takes_the_options_of_a_run(command: Command, tmp_path: Path):
    spec, prices = rejecting(tmp_path), tmp_path / "prices.yaml"
    prices.write_text("offline/stand-in: [1.0, 2.0]\n")
    assert command("run", spec, "--engine", "local", "--out", "here").exit_code == 3
    words = ["retry", "here", "--engine", "local", "--model", "offline/stand-in"]
    capped = command(*words, "--max-calls", 1)
    assert (capped.exit_code, "max_calls" in capped.stderr) == (4, True)
    refused = command(*words, "--address", "auto")
    assert (refused.exit_code, "is for --engine ray" in refused.stderr) == (2, True)
    assert command(*words[:4], "--max-failed-rows", 6, "--max-calls", 1000).exit_code == 0
    paid = command(*words, "--prices", prices, "--max-cost-usd", 1)
    assert paid.exit_code == 0, paid.output
    retried = next(line for line in paid.stdout.splitlines() if line.startswith("retried in "))
    assert "$0.00" in retried


def test_retry_runs_failed_rows_again_with_changes(command: Command, tmp_path: Path):
    assert command("run", rejecting(tmp_path), "--engine", "local", "--out", "here").exit_code == 3
    still = command("retry", "here", "--engine", "local")
    assert (still.exit_code, still.stdout.splitlines()[0]) == (3, "6 rows failed before, 6 after")
    mended = command("retry", "here", "--engine", "local", "--model", "offline/stand-in")
    assert (mended.exit_code, mended.stdout.splitlines()[0]) == (0, "6 rows failed before, 0 after")
    [spent] = json.loads(Path("here/manifest.json").read_text())["retries"][-1]["models"].values()
    assert mended.stdout.splitlines()[1].endswith(f", {spent['calls_sent']} calls sent, $0")
    again = command("retry", "here", "--engine", "local")
    assert again.stdout.splitlines() == ["no row failed in here, so there was nothing to retry"]
    assert command("retry", "nowhere", "--engine", "local").exit_code == 1
