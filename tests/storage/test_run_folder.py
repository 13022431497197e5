"""A run folder belongs to one run at a time, and what is not ours stays as it is."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from raypipe.calls.remote import forget
from raypipe.contracts.step import Step
from raypipe.errors import OutputError
from raypipe.pipeline import Pipeline
from raypipe.steps import KeepColumns, LoadDataFromDicts
from raypipe.storage.commit_journal import CommitJournal
from raypipe.storage.paths import write_atomically
from raypipe.storage.run_folder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from raypipe.storage.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).held():
    print("held", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(path: Path) -> Generator[subprocess.Popen[str]]:
    """Another process that holds the folder until it is told to let go."""
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "data/part-0.parquet"])
def test_a_foreign_folder_is_refused_and_left_untouched(tmp_path: Path, name: str) -> None:
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("precious")
    said = "is not empty and holds no raypipe run; it is left as it is"
    with pytest.raises(OutputError, match=said), RunFolder(tmp_path).held():
        pytest.fail("the folder was taken")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files == [theirs]
    assert theirs.read_text() == "precious"


def test_a_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("precious")
    with pytest.raises(OutputError, match=r"is a file; name a folder with --out"), RunFolder(path).held():
        pytest.fail("the file was taken")
    assert path.read_text() == "precious"


def test_an_empty_folder_and_an_earlier_run_are_taken(tmp_path: Path) -> None:
    for _ in range(2):
        with RunFolder(tmp_path).held():
            (tmp_path / "manifest.json").write_text("{}")


def test_a_held_folder_is_refused_naming_process_and_host(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        with pytest.raises(OutputError) as caught, RunFolder(tmp_path).held():
            pytest.fail("the folder was taken")
        assert f"is in use by process {process.pid} on {socket.gethostname()}; wait for it or stop it" in str(
            caught.value
        )


def test_the_folder_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    with holder(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(30)
        with RunFolder(tmp_path).held():
            said = (tmp_path / ".raypipe" / "lock").read_text()
    assert said == f"process {os.getpid()} on {socket.gethostname()}"


def test_a_folder_is_free_again_after_its_run(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path).held():
        raise ZeroDivisionError
    with RunFolder(tmp_path).held():
        pass


def test_starting_over_keeps_results_and_calls(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.held():
        for place in (tmp_path / "data" / "leaf", tmp_path / "calls", folder.parts / "old"):
            place.mkdir(parents=True)
            (place / "file").write_text("kept or not")
        folder.start_over()
        assert list(folder.work.rglob("*")) == [folder.parts]
        assert (tmp_path / "data/leaf/file").exists()
        assert (tmp_path / "calls/file").exists()
        forget(folder.calls)
        assert not (tmp_path / "calls").exists()


def test_a_commit_replaces_what_stands_there(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.held():
        for text in ("first", "second"):
            folder.start_over()
            (folder.work / "data").mkdir()
            (folder.work / "data" / text).write_text(text)
            folder.commit({"of": text}, text.encode(), keeps_artifacts=False)
            assert folder.committed() == {"of": text}
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["second"]
    assert not folder.work.exists()


def test_the_owner_stands_for_the_place(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "real").mkdir()
    assert RunFolder(tmp_path / "real").owner == RunFolder(tmp_path / "link").owner
    assert RunFolder(tmp_path / "real").owner != RunFolder(tmp_path / "other").owner


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_atomically(path, b"old")
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_pipelines_without_a_name_have_folders_of_their_own() -> None:
    def unnamed(*names: str) -> Pipeline:
        with Pipeline() as pipeline:
            above: Step = LoadDataFromDicts([{"number": 1}], name="seed")
            for name in names:
                below = KeepColumns(name, columns=["number"])
                above.connect(below)
                above = below
        return pipeline

    one, other = unnamed("kept").folder(), unnamed("kept", "again").folder()
    assert one != other
    assert one == unnamed("kept").folder()
    assert one.parent == Path("out")
    assert unnamed("kept").folder("here") == Path("here")


@pytest.mark.parametrize("moves", range(8))
@pytest.mark.parametrize("is_first", [True, False])
def test_a_commit_that_version_0_1_0_left_half_done_is_rolled_back(tmp_path: Path, moves: int, is_first: bool) -> None:
    folder = RunFolder(tmp_path)
    with folder.held():
        if not is_first:
            _fill(folder, "before", "data", "failures", "artifacts")
            folder.commit({"of": "before"}, b"before", keeps_artifacts=False)
        _fill(folder, "after", "data", "failures", "artifacts")
        old = folder.work / "old"
        old.mkdir()
        steps: list[tuple[Path, Path]] = []
        for name in ("data", "failures", "artifacts"):
            steps += [] if is_first else [(tmp_path / name, old / name)]
            steps.append((folder.work / name, tmp_path / name))
        for source, target in steps[:moves]:
            source.rename(target)
        if moves > len(steps):
            write_atomically(tmp_path / "manifest.json", b'{"of": "after"}')
    RunFolder(tmp_path).settle()
    state = "after" if moves > len(steps) else "before"
    assert not folder.work.exists()
    if is_first and state == "before":
        assert folder.committed() == {}
        return
    assert folder.committed() == {"of": state}
    for name in ("data", "failures", "artifacts"):
        assert (tmp_path / name / "leaf/part-0.parquet").read_text() == state


def _fill(folder: RunFolder, text: str, *names: str) -> None:
    folder.start_over()
    for name in names:
        (folder.work / name / "leaf").mkdir(parents=True)
        (folder.work / name / "leaf/part-0.parquet").write_text(text)


@pytest.mark.parametrize("is_lost", [True, False], ids=["no manifest", "damaged"])
def test_a_journal_that_cannot_be_read_is_named(tmp_path: Path, is_lost: bool) -> None:
    folder = RunFolder(tmp_path)
    with folder.held():
        _fill(folder, "before", "data")
        folder.commit({"of": "before"}, b"", keeps_artifacts=False)
    journal = folder.own / "commit"
    journal.mkdir()
    if not is_lost:
        (journal / "manifest.json").write_text('{"of": "after"}')
        (journal / "state.json").write_text("[")
        with pytest.raises(OutputError, match="was cut off and cannot be finished: its journal is damaged"):
            folder.settle()
    else:
        folder.settle()
    assert folder.committed() == {"of": "before"}
    assert (tmp_path / "data/leaf/part-0.parquet").read_text() == "before"


def test_folders_that_cannot_change_places_in_one_step_are_finished_by_the_next(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    with folder.held():
        _fill(folder, "before", "data", "failures")
        folder.commit({"of": "before"}, b"", keeps_artifacts=False)
        _fill(folder, "after", "data", "failures")
        CommitJournal(folder.path, folder.own).decide(b'{"of": "after"}', b"after")
    (folder.own / "commit/old").mkdir()
    (tmp_path / "data").rename(folder.own / "commit/old/data")
    folder.settle()
    assert folder.committed() == {"of": "after"}
    for name in ("data", "failures"):
        assert (tmp_path / name / "leaf/part-0.parquet").read_text() == "after"
    assert (tmp_path / "pipeline.yaml").read_text() == "after"
    assert not (folder.own / "commit").exists()


@pytest.mark.parametrize(
    "content", ["null", "[]", "7", '{"leaves": null}', '{"leaves": {"a": 1}}', '{"leaves": {"a": {"rows": "x"}}}', "{"]
)
def test_what_is_no_manifest_is_no_run(content: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.manifest.write_text(content)
    assert folder.committed() == {}
