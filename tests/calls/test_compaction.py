"""A compaction that is killed at any moment loses nothing; what was logged later wins, whatever the clocks say."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.calls.compacted import SCHEMA
from raypipe.calls.compaction import compact
from raypipe.calls.index import load_index
from raypipe.calls.segment_files import SegmentWriter, in_use, next_number, number_of
from tests.calls.logs import OTHER, OWNER, frame, known, texts, write

ROOT = Path(__file__).parents[2]
KILLED = 137
_WORK = """
    import os, shutil, sys
    from pathlib import Path
    from raypipe.calls.compacted_file import compacted_files
    from raypipe.calls.compaction import compact, rewrite

    root, owner, what = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    names = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.scandir", "os.listdir"}
    events = 0

    def work(folder, last):
        def count(name, arguments):
            global events
            if name == "fcntl.flock" or name in names and any(str(folder) in str(one) for one in arguments):
                events += 1
                if events == last:
                    os._exit(137)

        shutil.copytree(root / "before", folder)
        sys.addaudithook(count)
        compact(folder, owner) if what == "compact" else rewrite(folder, compacted_files(folder))
        (root / "count").write_text(str(events))
        os._exit(0)

    def end(last):
        child = os.fork()
        if not child:
            work(root / str(last), last)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

    assert end(0) == 0
    count = int((root / "count").read_text())
    print(*[end(last) for last in range(1, count + 1)])
"""


def killed_everywhere(root: Path, what: str) -> int:
    """Compact or merge `before` in processes that end before their first, second, … call to the system; how many."""
    command = [sys.executable, "-c", textwrap.dedent(_WORK), str(root), OWNER, what]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=250)
    codes = done.stdout.split()
    assert {*codes} == {str(KILLED)}, done.stderr
    return len(codes)


def rows_in(folder: Path) -> list[str]:
    return sorted(text for path in folder.glob("calls-*") for text in pq.read_table(path).column("text").to_pylist())


@pytest.mark.parametrize("what", ["compact", "merge"])
def test_a_compaction_that_is_killed_anywhere_loses_nothing_and_counts_nothing_twice(what: str, tmp_path: Path) -> None:
    before = tmp_path / "before"
    for part in range(2):
        write(before, range(10 * part, 10 * part + 10))
        if what == "merge":
            compact(before, OWNER)
    if what == "compact":
        damaged = filled_ones(before)[0]
        content = bytearray(damaged.read_bytes())
        content[60] ^= 1
        damaged.write_bytes(content)
    count = killed_everywhere(tmp_path, what)
    assert count > 10
    expected = rows_in(tmp_path / "0")
    there = {number: text for number, text in texts(range(20)).items() if text in expected}
    assert len(there) == len(expected) == 20 - (what == "compact")
    for last in range(1, count + 1):
        folder = tmp_path / str(last)
        assert known(folder, range(20)) == there
        compact(folder, OWNER)
        assert rows_in(folder) == expected
        assert {path.name.partition("-")[0] for path in folder.iterdir()} <= {"calls", "damaged"}
        assert len([*folder.glob("damaged/segment-*")]) == (what == "compact")


def filled_ones(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("segment-*.calls") if path.stat().st_size > 20)


def test_leftovers_of_killed_writers_are_removed_and_those_of_living_ones_are_not(tmp_path: Path) -> None:
    lives = SegmentWriter(tmp_path, OTHER)
    lives.write(frame(1))
    theirs = set(tmp_path.iterdir())
    for name in ("calls-0.tmp", f"segment-{OWNER}-{'0' * 32}-a.new", f"segment-{OWNER}-{'0' * 32}.room"):
        (tmp_path / name).write_bytes(b"half")
    write(tmp_path, [2])
    compact(tmp_path, OWNER)
    assert {path for path in tmp_path.iterdir() if path.suffix != ".parquet"} == theirs
    lives.close()


# Order.


def test_what_is_logged_later_wins_though_its_clock_is_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time_ns", lambda: 4_000_000_000 * 10**9)  # of the machine that logs first
    write(tmp_path, [1], "old")
    compact(tmp_path, OWNER)
    monkeypatch.undo()
    write(tmp_path, [1], "new")
    assert known(tmp_path, [1]) == {1: "new"}
    compact(tmp_path, OWNER)
    assert known(tmp_path, [1]) == {1: "new"}
    assert next_number(tmp_path) > max(map(number_of, tmp_path.glob("calls-*")))


def test_segments_are_ordered_by_their_runs_and_not_by_their_times(tmp_path: Path) -> None:
    write(tmp_path, [1], "old")
    [old] = filled_ones(tmp_path)
    write(tmp_path, [1], "new")
    os.utime(old, (4e9, 4e9))
    assert known(tmp_path, [1]) == {1: "new"}
    compact(tmp_path, OWNER)
    assert known(tmp_path, [1]) == {1: "new"}


def test_a_dead_run_that_is_compacted_late_does_not_win_over_later_ones(tmp_path: Path) -> None:
    write(tmp_path, [1, 2], "of the dead", owner=OTHER)
    write(tmp_path, [1], "of the fresh")
    with in_use(tmp_path, OTHER):  # so that its segments stay for now
        compact(tmp_path, OWNER)
    assert len(filled_ones(tmp_path)) == 1
    compact(tmp_path, OWNER)
    assert filled_ones(tmp_path) == []
    assert known(tmp_path, [1, 2]) == {1: "of the fresh", 2: "of the dead"}


# Runs over the same log.


def test_a_dead_worker_of_a_living_run_is_left_alone(tmp_path: Path) -> None:
    write(tmp_path, [1], owner=OTHER)
    theirs = set(tmp_path.glob("segment-*"))
    with in_use(tmp_path, OTHER):
        write(tmp_path, [2])
        compact(tmp_path, OWNER)
        assert set(tmp_path.glob("segment-*")) == theirs
        assert known(tmp_path, [1, 2], OTHER) == texts([1, 2])
    compact(tmp_path, OWNER)
    assert not list(tmp_path.glob("segment-*"))
    assert known(tmp_path, [1, 2]) == texts([1, 2])


def test_a_dead_worker_beside_a_living_one_is_left_alone(tmp_path: Path) -> None:
    """Also where the run is of version 0.1.0, which does not say that it uses the log."""
    write(tmp_path, [1], owner=OTHER)
    lives = SegmentWriter(tmp_path, OTHER)
    write(tmp_path, [2])
    compact(tmp_path, OWNER)
    assert len(filled_ones(tmp_path)) == 1
    lives.close()
    compact(tmp_path, OWNER)
    assert filled_ones(tmp_path) == []


def test_a_segment_is_opened_so_that_nfs_can_lock_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NFS locks exclusively only what is open for writing, and says EBADF otherwise."""
    import fcntl

    flock = fcntl.flock

    def as_nfs(file: object, operation: int) -> None:
        number = file if isinstance(file, int) else file.fileno()  # type: ignore[attr-defined]
        flags = fcntl.fcntl(number, fcntl.F_GETFL) & os.O_ACCMODE
        if operation & fcntl.LOCK_EX and flags == os.O_RDONLY:
            raise OSError(9, "Bad file descriptor")
        flock(number, operation)

    monkeypatch.setattr(fcntl, "flock", as_nfs)
    write(tmp_path, [1])
    compact(tmp_path, OWNER)
    assert known(tmp_path, [1]) == texts([1])


# Many files.


def test_many_small_files_become_few_and_equal_keys_keep_their_order(tmp_path: Path) -> None:
    for number in range(70):
        write(tmp_path, [number])
        write(tmp_path, [1000], f"version {number}")
        compact(tmp_path, OWNER)
    assert len(list(tmp_path.glob("calls-*"))) <= 64
    assert known(tmp_path, [*range(70), 1000]) == texts(range(70)) | {1000: "version 69"}
    assert len(load_index(tmp_path)) == 140


def test_files_with_more_and_without_are_merged(tmp_path: Path) -> None:
    write(tmp_path, range(3))
    compact(tmp_path, OWNER)
    [path] = tmp_path.glob("calls-*")
    old = pq.read_table(path).drop_columns(["more"]).replace_schema_metadata()
    path.unlink()
    for number in range(64):
        pq.write_table(old, tmp_path / f"calls-{number:020d}-0000000a.parquet")
    writer = SegmentWriter(tmp_path, OWNER)
    writer.write(frame(5, more='{"a": 1}'))
    writer.close()
    compact(tmp_path, OWNER)
    tables = [pq.read_table(path) for path in tmp_path.glob("calls-*")]
    assert len(tables) <= 64
    assert sum(table.num_rows for table in tables) == 64 * 3 + 1
    more = [value for table in tables if "more" in table.column_names for value in table.column("more").to_pylist()]
    assert [value for value in more if value is not None] == ['{"a": 1}']
    assert any(table.schema.equals(SCHEMA) and table.num_rows > 3 for table in tables)
