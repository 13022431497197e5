"""What commands print: counts that add up, paths that load, failures that are explained."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.cli import layout
from tests.cli.conftest import Command, tiny, written


@pytest.fixture
def losing(tmp_path: Path) -> Path:
    """A file of which one topic's list cannot be read, and which filters."""
    plain = tiny()
    answers = {"List sky": {"no": "list"}, "List": ["a", "b"], "Write a": "", "Write": "fine"}
    plain["models"]["writer"]["options"]["answers"] = answers
    plain["steps"][1]["parse"] = "json_list"
    plain["steps"][1]["template"] = "List {{ topic }}"
    plain["steps"].insert(2, {"name": "kept", "type": "Filter", "keep": "part != 'b'"})
    return written(tmp_path / "losing.yaml", plain)


def cells(text: str, step: str) -> list[int]:
    """The numbers of a step's line."""
    found = next(line for line in text.splitlines() if line.startswith(f"{step} "))
    return [int(number.replace(",", "")) for number in re.findall(r"(?<=\s)[\d,]+(?=\s|$)", found)]


def test_the_summary_of_a_run(command: Command, spec: Path):
    text = command("run", spec, "--engine", "local", "--out", "here").stdout
    lines = text.splitlines()
    assert re.fullmatch(r"tiny: [\d.]+ s, 9 calls sent, \$0", lines[0])
    assert lines[2].split() == ["step", "in", "done", "out", "calls", "tokens", "in", "tokens", "out", "cost"]
    assert cells(text, "seed") == [3, 3, 3]
    assert cells(text, "parts")[:4] == [3, 3, 6, 3]
    assert cells(text, "texts")[:4] == [6, 6, 6, 6]
    assert lines[-2:] == [
        "6 rows of 'texts' in here/data/texts/",
        '  datasets.load_dataset("parquet", data_files="here/data/texts/*.parquet")',
    ]
    assert pq.read_table(Path("here/data/texts")).num_rows == 6


def test_the_counts_of_the_summary_add_up(command: Command, losing: Path):
    result = command("run", losing, "--engine", "local", "--out", "here")
    assert result.exit_code == 3
    text = result.stdout
    assert "step   in  done  failed  filtered  out" in text
    # in, done, failed or filtered, out
    assert cells(text, "parts")[:4] == [3, 2, 1, 4]
    assert cells(text, "kept") == [4, 2, 2, 2]
    assert cells(text, "texts")[:3] == [2, 2, 2]


def test_a_second_run_is_answered_from_the_log(command: Command, spec: Path):
    command("run", spec, "--engine", "local", "--out", "here")
    again = command("run", spec, "--engine", "local", "--out", "here").stdout
    assert ", 0 calls sent, 9 answered from the log, $0" in again
    fresh = command("run", spec, "--engine", "local", "--out", "here", "--fresh", "--yes").stdout
    assert ", 9 calls sent, $0" in fresh
    shared = command("run", spec, "--engine", "local", "--out", "there", "--calls", "here/calls").stdout
    assert ", 0 calls sent, 9 answered from the log" in shared


def test_failures_are_grouped_with_an_example(command: Command, losing: Path):
    command("run", losing, "--engine", "local", "--out", "here")
    result = command("failures", "here")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "1 row failed in here"
    assert lines[2].startswith("1  step 'parts', ")
    row = pq.read_table(Path("here/failures")).to_pylist()[0]
    assert lines[3].strip() == " ".join(row["message"].split())
    assert lines[4] == f"  for example row {row['_row_id']}"
    assert lines[-1] == "all of them, with their columns: here/failures/*.parquet"


def test_no_failures(command: Command, spec: Path):
    command("run", spec, "--engine", "local", "--out", "here")
    assert command("failures", "here").stdout == "no row failed in here\n"


def test_a_folder_without_a_run_has_no_failures(command: Command):
    result = command("failures", "nowhere")
    assert result.exit_code == 1
    assert "holds no committed run" in result.stderr


def test_the_description_of_a_pipeline(command: Command, tmp_path: Path):
    path = written(tmp_path / "a.yaml", tiny(description="Parts of things."))
    assert command("info", path).stdout.splitlines() == [
        "tiny",
        "Parts of things.",
        "",
        "seed: LoadDataFromDicts",
        "  loads   topic",
        "parts: TextGeneration, asks offline/stand-in, scatter, after seed",
        "  reads   topic",
        "  gives   part",
        "texts: TextGeneration, asks offline/stand-in, after parts",
        "  reads   part",
        "  gives   generation",
        "writes data/texts/",
    ]


def test_the_plan_is_printed(command: Command, spec: Path):
    result = command("plan", spec)
    assert result.exit_code == 0
    assert "stage 0: reads 'seed'" in result.stdout


def test_a_dry_run_says_what_a_real_run_would_ask(command: Command, spec: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    result = command("dry-run", spec, "--rows", 2, "--model", "openai/gpt-4o-mini")
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "tiny: dry run of 2 rows of each source, models played by a stand-in, nothing spent"
    assert cells(result.stdout, "seed") == [2, 2]
    made = cells(result.stdout, "parts")
    assert made[0] == made[2] == 2
    assert cells(result.stdout, "texts") == [made[1]] * 3
    assert result.stdout.count("openai/gpt-4o-mini") == 3
    assert f"texts: 3 of {made[1]} rows" in lines
    assert "  - topic       sea" in lines
    said = "before a real run: model 'openai/gpt-4o-mini': the environment variable OPENAI_API_KEY is not set"
    assert lines[-1].startswith(said)
    assert not Path("out").exists()


def test_a_live_dry_run_asks_the_models_and_shows_what_failed(command: Command, losing: Path):
    result = command("dry-run", losing, "--rows", 3, "--live")
    assert result.exit_code == 3
    assert "asking the real models" in result.stdout
    assert "failures: 1 of 1 row" in result.stdout
    assert re.search(r"^  parts \(\w+\): ", result.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("amount", "said"),
    [(None, "price unknown"), (0.0, "$0"), (0.00001, "under $0.0001"), (0.1234, "$0.1234"), (1234.5, "$1,234.50")],
)
def test_dollars(amount: float | None, said: str):
    assert layout.dollars(amount) == said


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0.04, "0.0 s"), (4.94, "4.9 s"), (5.02, "5 s"), (59.4, "59 s"), (59.7, "1 min 00 s"), (3725, "1 h 02 min")],
)
def test_durations(seconds: float, said: str):
    assert layout.duration(seconds) == said
