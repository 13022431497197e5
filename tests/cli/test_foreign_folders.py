"""A run folder that somebody else made: nothing is written, copied or sent that lies outside of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import InputError, OutputError
from raypipe.results import Result
from raypipe.storage.paths import RemotePath, parse_path
from raypipe.storage.run_files import local_copy
from raypipe.storage.run_folder import RunFolder
from tests.cli.conftest import Command, tiny, written

PRECIOUS = "precious\n" * 100
FILES = [
    *(".raypipe/mark", ".raypipe/lock", ".raypipe/spent.json", ".raypipe/.spent.json.tmp", ".raypipe/ledgers.json"),
    *("calls/_ledger.jsonl", "calls/_ledger.lock", "calls/._ledger.jsonl.tmp", ".raypipe/.ledgers.json.tmp"),
    *(".manifest.json.tmp", ".pipeline.yaml.tmp", "calls/calls-0.parquet", "failures/part-00000.parquet"),
]
FOLDERS = [".raypipe", ".raypipe/work", "data", "failures", "calls", "artifacts"]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """What lies beside the run folder: a file and a folder with the same."""
    folder = tmp_path / "outside"
    folder.mkdir(mode=0o755)
    for file in (folder / "file", tmp_path / "precious"):
        file.write_text(PRECIOUS)
    return tmp_path


@pytest.fixture
def made(command: Command, outside: Path) -> Path:
    plain = tiny()
    plain["models"]["writer"]["options"]["answers"]["Write"] = "no number"
    plain["steps"][2] |= {"parse": "json"}
    written(outside / "p.yaml", plain)
    assert command("run", "p.yaml", "--engine", "local", "--out", "out").exit_code == 3
    return outside / "out"


def is_untouched(outside: Path) -> bool:
    folder = outside / "outside"
    texts = [(outside / "precious").read_text(), (folder / "file").read_text()]
    is_open = folder.stat().st_mode & 0o777 == 0o755
    return texts == [PRECIOUS] * 2 and is_open and os.listdir(folder) == ["file"]


@pytest.mark.parametrize("name", [*FILES, *FOLDERS])
@pytest.mark.parametrize("words", [["retry", "out"], ["run", "p.yaml", "--out", "out", "--fresh"]])
def test_nothing_is_written_through_a_link(
    command: Command, made: Path, outside: Path, name: str, words: list[str]
) -> None:
    path = made / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(outside / ("outside" if name in FOLDERS else "precious"))
    refused = command(*words, "--engine", "local")
    assert is_untouched(outside), "somebody else's files were changed"
    assert refused.exit_code == 1, refused.output
    if name != ".raypipe":  # without its mark it is no run at all
        assert f"the link {path} leads to" in " ".join(refused.stderr.split())


def test_a_folder_that_is_itself_a_link_is_the_users_own(command: Command, outside: Path) -> None:
    written(outside / "p.yaml", tiny())
    (outside / "disk").mkdir()
    (outside / "out").symlink_to("disk")
    assert command("run", "p.yaml", "--engine", "local", "--out", "out").exit_code == 0
    assert (outside / "disk" / "manifest.json").exists()


def test_what_a_link_leads_to_is_neither_copied_nor_sent(made: Path, outside: Path) -> None:
    pytest.importorskip("datasets")
    artifact = made / "artifacts" / "texts" / "notes"
    artifact.mkdir(parents=True)
    (artifact / "metadata.json").write_text("{}")
    (artifact / "own.txt").write_text("mine")
    (artifact / "same.txt").symlink_to("own.txt")
    Result(made).save_to_disk(outside / "saved")
    (artifact / "key").symlink_to(outside / "precious")
    with pytest.raises(InputError, match="leads out of the folder of the run"):
        Result(made).save_to_disk(outside / "again")
    with pytest.raises(InputError, match="leads out of the folder of the run"):
        Result(made).push_to_hub("owner/name")
    assert not (outside / "again").exists()


def test_artifacts_that_are_kept_are_not_copied_from_elsewhere(command: Command, made: Path, outside: Path) -> None:
    artifact = made / "artifacts" / "texts" / "notes"
    artifact.mkdir(parents=True)
    (artifact / "key").symlink_to(outside / "precious")
    retried = command("retry", "out", "--engine", "local", "--set", "texts.parse=text")
    assert retried.exit_code == 0, retried.output
    assert (artifact / "key").is_symlink()
    assert is_untouched(outside)


CHANGES: dict[str, Any] = {
    "a leaf above": {"leaves": {"../../outside": {"rows": 1, "path": "data/texts"}}},
    "a leaf at the root": {"leaves": {"/outside": {"rows": 1, "path": "data/texts"}}},
    "an origin that is a text": {"origin": "p.yaml"},
    "an origin that is a list": {"origin": ["p.yaml"]},
}


@pytest.mark.parametrize("change", list(CHANGES))
def test_a_manifest_that_no_run_writes_is_told_in_a_sentence(command: Command, made: Path, change: str) -> None:
    manifest = json.loads((made / "manifest.json").read_text())
    (made / "manifest.json").write_text(json.dumps(manifest | CHANGES[change]))
    for words in (["failures", "out"], ["retry", "out", "--engine", "local"]):
        refused = command(*words)
        assert refused.exit_code == 1, refused.output
        assert "is not as a run writes it" in refused.stderr


@pytest.mark.parametrize(
    ("named", "place"),
    [("../..", "artifacts/a/b/1"), ("a/..", "artifacts/a/b/1"), ("a/b", "../../x"), ("a", "artifacts"), ("a/b", 5)],
)
def test_artifacts_of_a_bucket_stay_in_the_folder(bucket: str, named: str, place: Any) -> None:
    run = parse_path(f"{bucket}/out")
    assert isinstance(run, RemotePath)
    manifest: dict[str, Any] = {"leaves": {}, "failures": {"rows": 0, "path": "failures", "files": []}}
    with (
        pytest.raises(InputError, match="leads out of its folder"),
        local_copy(run, manifest | {"artifacts": {named: place}}),
    ):
        pass


def test_a_dangling_link_is_found_as_well(command: Command, made: Path, outside: Path) -> None:
    (made / ".raypipe" / "mark").unlink()
    (made / ".raypipe" / "mark").symlink_to(outside / "not-there-yet")
    with pytest.raises(OutputError, match="is not empty and holds no raypipe run"):
        RunFolder(made).check()
    assert command("retry", "out", "--engine", "local").exit_code == 1
    assert not (outside / "not-there-yet").exists()
