"""A folder in a store belongs to one run at a time, and is free again when its run is dead."""

from __future__ import annotations

import os
import threading

import orjson
import pytest

from raypipe.errors import OutputError
from raypipe.storage.lock import LeaseTiming, RemoteLock
from raypipe.storage.paths import RemotePath, parse_path
from raypipe.storage.remote_run_folder import RemoteRunFolder

SOON = LeaseTiming(beat_s=0.05, silent_s=0.5, look_s=0.02)


@pytest.fixture
def folder(bucket: str) -> RemotePath:
    found = parse_path(f"{bucket}/out")
    assert isinstance(found, RemotePath)
    return found


def lock(folder: RemotePath, rhythm: LeaseTiming = SOON, machine: str = "") -> RemoteLock:
    return RemoteLock(folder / ".raypipe/lock", folder, lambda: None, rhythm, machine)


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
    living, late = lock(folder, SOON, "elsewhere"), lock(folder, LeaseTiming(look_s=0.02))
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
