"""A folder in a store belongs to one run at a time, and is free again when its run is dead."""

from __future__ import annotations

import os
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import orjson
import pytest

from raypipe.errors import OutputError
from raypipe.storage.conditional_object import ConditionalObject, PlainObject, Versioned
from raypipe.storage.lock import LeaseTiming, RemoteLock
from raypipe.storage.paths import RemotePath, parse_path
from raypipe.storage.remote_run_folder import RemoteRunFolder
from tests.bucket_server import serve_bucket

SOON = LeaseTiming(heartbeat_s=0.05, expires_s=0.5, poll_s=0.02)


@pytest.fixture
def folder(bucket: str) -> RemotePath:
    found = parse_path(f"{bucket}/out")
    assert isinstance(found, RemotePath)
    return found


def lock(folder: RemotePath, timing: LeaseTiming = SOON, machine: str = "") -> RemoteLock:
    return RemoteLock(folder / ".raypipe/lock", folder, lambda: None, timing, machine)


def change(folder: RemotePath, **changed: object) -> None:
    """Write the lock as another would."""
    place = folder / ".raypipe/lock"
    place.write_bytes(orjson.dumps(orjson.loads(place.read_bytes()) | {"token": "another"} | changed))


def test_a_second_run_of_this_machine_is_refused_with_the_holder(folder: RemotePath) -> None:
    one, other = RemoteRunFolder(folder), RemoteRunFolder(folder)
    with one.held():
        said = f"{folder} is in use by process {os.getpid()} on "
        with pytest.raises(OutputError, match=said), other.held():
            pytest.fail("two runs held it")
        one.check_held()
    with other.held():
        pass
    assert not (folder / ".raypipe/lock").exists()


def test_a_process_of_this_machine_that_is_gone_holds_nothing(folder: RemotePath) -> None:
    dead, living = lock(folder, LeaseTiming()), lock(folder, LeaseTiming())
    dead.take()
    change(folder, began=1.0)
    living.take()
    living.check()
    dead.release()
    living.check()
    living.release()


def test_a_holder_elsewhere_that_is_silent_is_taken_for_dead(folder: RemotePath) -> None:
    silent, living = lock(folder, LeaseTiming(), "elsewhere"), lock(folder)
    silent.take()
    living.take()
    living.check()
    with pytest.raises(OutputError, match="is in use by process"):
        silent.check()
    silent.release()
    living.release()


def test_a_holder_elsewhere_that_writes_is_left_alone(folder: RemotePath) -> None:
    living, late = lock(folder, SOON, "elsewhere"), lock(folder, LeaseTiming(poll_s=0.02))
    living.take()
    with pytest.raises(OutputError, match=f"{folder} is in use by process {os.getpid()} on "):
        late.take()
    living.check()
    living.release()


def test_whoever_loses_it_is_told(folder: RemotePath) -> None:
    lost = threading.Event()
    held = RemoteLock(folder / ".raypipe/lock", folder, lost.set, SOON)
    held.take()
    # It may have been about to write when the other one wrote.
    while not lost.wait(0.2):
        change(folder, host="elsewhere", process=7)
    with pytest.raises(OutputError, match="is in use by process 7 on elsewhere"):
        held.check()
    held.release()
    assert (folder / ".raypipe/lock").exists()


def test_a_run_that_lost_its_folder_commits_nothing(folder: RemotePath) -> None:
    store = RemoteRunFolder(folder)
    with store.held():
        change(folder, process=7)
        with pytest.raises(OutputError, match="is in use by process 7"):
            store.commit({"leaves": {}, "failures": {"path": "failures"}}, b"", keeps_artifacts=False)
    assert not store.manifest.exists()


def test_of_runs_that_take_it_at_once_exactly_one_gets_it(folder: RemotePath) -> None:
    for attempt in range(5):
        rivals = [lock(folder / str(attempt), machine=f"machine {number}") for number in range(8)]
        ready = threading.Barrier(len(rivals))

        def taken(rival: RemoteLock, ready: threading.Barrier = ready) -> bool:
            ready.wait()
            try:
                rival.take()
            except OutputError:
                return False
            return True

        with ThreadPoolExecutor(len(rivals)) as threads:
            has_it = list(threads.map(taken, rivals))
        assert has_it.count(True) == 1
        holder = rivals[has_it.index(True)]
        holder.check()
        holder.release()


def test_of_runs_that_take_over_a_dead_ones_lock_exactly_one_gets_it(folder: RemotePath) -> None:
    lock(folder, LeaseTiming(), "elsewhere").take()
    change(folder, machine="gone")
    rivals = [lock(folder, machine=f"machine {number}") for number in range(8)]

    def taken(rival: RemoteLock) -> bool:
        try:
            rival.take()
        except OutputError:
            return False
        return True

    with ThreadPoolExecutor(len(rivals)) as threads:
        has_it = list(threads.map(taken, rivals))
    assert has_it.count(True) == 1
    rivals[has_it.index(True)].check()


def test_an_object_is_written_in_place_of_the_version_that_was_read_and_no_other(folder: RemotePath) -> None:
    for number, kind in enumerate((ConditionalObject, PlainObject)):
        made = kind(folder / str(number))
        assert made.read() is None
        first = made.write(b"first")
        assert first is not None
        assert made.write(b"another first") is None
        second = made.write(b"second", first)
        assert made.write(b"late", first) is None
        assert made.read() == Versioned(b"second", second)


@pytest.mark.parametrize(
    ("conditions", "reason"), [("ignored", "it wrote an object that was to be created only"), ("refused", ".*501")]
)
def test_a_store_without_conditional_writes_is_locked_as_well_as_it_can_be_with_a_warning(
    folder: RemotePath,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    conditions: str,
    reason: str,
) -> None:
    with serve_bucket(conditions) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        one, late = lock(folder), lock(folder)
        one.take()
        assert re.search(rf"is locked without conditional writes \({reason}", caplog.text)
        assert "<?xml" not in caplog.text
        with pytest.raises(OutputError, match=f"in use by process {os.getpid()} on "):
            late.take()
        one.check()
        one.release()
        assert not (folder / ".raypipe/lock").exists()


def test_keys_of_a_profile_are_found(folder: RemotePath, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    profiles = tmp_path / "credentials"
    profiles.write_text("[work]\naws_access_key_id = key-of-work\naws_secret_access_key = secret%of=work\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(profiles))
    monkeypatch.setenv("AWS_PROFILE", "work")
    made = ConditionalObject(folder / "lock")
    assert made.write(b"content") is not None
    assert made.read() is not None
