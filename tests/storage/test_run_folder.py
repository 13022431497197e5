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
