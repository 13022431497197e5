"""A kill at any moment of a commit leaves the state before or after; whoever comes next goes on from there."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import ROOT
from tests.bucket_server import BUCKET, serve_bucket

BEFORE = {"rows": [n for n in range(100) if n % 10], "failed": 10, "counted": [90, 10], "is_broken": True}
AFTER = {
    "retry": {"rows": list(range(100)), "failed": 0, "counted": [100, 0], "is_broken": False},
    "run": {"rows": list(range(0, 200, 2)), "failed": 0, "counted": [100, 0], "is_broken": False},
}


class Orders:
    """The program that does what it is told in a process of its own each time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = 0
        """The process of the last order."""

    def __call__(self, do: str, out: object, at: int = 0) -> tuple[int, Any]:
        """How it ended: its exit code, or minus the signal; and what it answered."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": do, "out": str(out), "at": at}) + "\n")
        self._process.stdin.flush()
        self.pid = int(self._process.stdout.readline())
        ended, answer = json.loads(self._process.stdout.readline())
        return ended, answer


@contextmanager
def orders(**environment: str) -> Generator[Orders]:
    command = [sys.executable, "-m", "tests.acceptance.cut_commits"]
    options: dict[str, Any] = {"cwd": ROOT, "env": os.environ | environment, "text": True}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **options) as process:
        yield Orders(process)


@pytest.fixture
def program() -> Iterator[Orders]:
    with orders() as program:
        yield program


@pytest.mark.parametrize("what", ["retry", "run"])
def test_a_kill_between_two_changes_of_a_folder_leaves_the_state_before_or_after(
    program: Orders, tmp_path: Path, what: str
) -> None:
    base, out, after = tmp_path / "base", tmp_path / "out", AFTER[what]
    assert program("first", base) == (0, None)
    found: list[dict[str, Any]] = []
    ended = -signal.SIGKILL
    while ended:
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(base, out)
        ended, _ = program(what, out, at=len(found) + 1)
        assert ended in (0, -signal.SIGKILL)
        _, seen = program("see", out)
        found.append(seen)
        plain = seen.pop("plain")
        assert plain in (BEFORE["rows"], after["rows"]), "readers that know nothing of raypipe"
        assert seen in (BEFORE, after)
        assert program(what, out)[0] == 0
        assert program("see", out)[1] == after | {"plain": after["rows"]}
    assert BEFORE in found
    assert found.count(after) > 5
    assert not (out / ".raypipe/commit").exists()


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("what", "every"),
    [("retry", 5), pytest.param("retry", 1, marks=pytest.mark.full), pytest.param("run", 1, marks=pytest.mark.full)],
)
def test_a_kill_at_a_request_to_a_store_leaves_the_state_before_or_after(what: str, every: int) -> None:
    left, has_begun, after, found = 0, False, AFTER[what], list[dict[str, Any]]()
    program: Orders

    def admit(method: str, path: str) -> bool:
        """Whoever commits is killed at the request whose turn it is, which is lost."""
        nonlocal left, has_begun
        has_begun = has_begun or "/out/.raypipe/work/data/" in path
        if method not in ("PUT", "POST", "DELETE") or not left or not has_begun:
            return True
        left -= 1
        if not left:
            os.kill(program.pid, signal.SIGKILL)
        return bool(left)

    with serve_bucket(admit=admit) as address:
        keys = {"AWS_ENDPOINT_URL": address, "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
        with orders(**keys) as program:
            ended = -signal.SIGKILL
            while ended:
                out = f"s3://{BUCKET}/{what}-{len(found)}/out"
                assert program("first", out)[0] == 0
                left, has_begun = len(found) * every + 1, False
                ended, _ = program(what, out)
                left = 0
                assert ended in (0, -signal.SIGKILL)
                _, seen = program("see", out)
                del seen["plain"]
                found.append(seen)
                assert seen in (BEFORE, after)
                assert program(what, out)[0] == 0
                assert program("see", out)[1] == after | {"plain": []}
    assert BEFORE in found
    assert after in found[:-1]
