"""Runs and retries that are killed in the midst of their commit, and what readers find afterwards.

    python -m tests.acceptance.cut_commits

Each line of standard input is an order, as JSON: `do` (`first`, `run`, `retry`, `see`), `out`, and `at`, the number of
the event at which it is killed: one that changes a file of the run, as Python is told of (`sys.addaudithook`), counted
from the first that has to do with the commit. It is done in a process that is forked from this one, which has loaded
everything and begun nothing. Two lines answer: the process, once it is there, and how it ended.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from raypipe.errors import RowError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, step
from raypipe.storage.paths import open_parquet_at
from raypipe.storage.run_files import spec_path

ROWS, BROKEN = 100, 10
EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "raypipe.exchange", "os.truncate", "os.chmod"}


def pipeline(factor: int, is_broken: bool) -> Pipeline:
    """One row in ten fails where it is broken."""

    @step(inputs=["n"], outputs=["m"])
    def risky(row: Values) -> dict[str, Any]:
        if is_broken and row["n"] % (ROWS // BROKEN) == 0:
            raise RowError("broken")
        return {"m": factor * row["n"]}

    with Pipeline("cut") as made:
        made_by = risky("risky", input_batch_size=11 if is_broken else 12)
        LoadDataFromDicts([{"n": n} for n in range(ROWS)], name="seed").connect(made_by)
    return made


def act(what: str, out: str) -> Any:
    """A run of which some rows fail, a retry that mends these, a run that makes other rows of all; or a look."""
    if what == "first":
        pipeline(1, is_broken=True).run(out, engine="local", max_failed_rows=ROWS)
    elif what == "retry":
        pipeline(1, is_broken=False).retry(out, engine="local")
    elif what == "run":
        pipeline(2, is_broken=False).run(out, engine="local")
    else:
        return seen(out)
    return None


def seen(out: str) -> dict[str, Any]:
    """What readers see: those that know nothing of raypipe, if it is a folder here, then others."""
    files = sorted(Path(out).glob("data/risky/part-*.parquet"))
    plain = [value for file in files for value in pq.ParquetFile(file).read(use_threads=False)["m"].to_pylist()]
    result = Result(out)
    rows = [value for file in result["default"].files for value in open_parquet_at(file).read()["m"].to_pylist()]
    failed = sum(open_parquet_at(file).metadata.num_rows for file in result.failures.files)
    counted = [result.manifest["leaves"]["risky"]["rows"], result.failed_rows]
    is_broken = b"input_batch_size: 11" in spec_path(result.path, result.manifest).read_bytes()
    return {"plain": plain, "rows": rows, "failed": failed, "counted": counted, "is_broken": is_broken}


def kill_at(out: str, at: int) -> None:
    """Be killed before the `at`-th event that changes a file of the run; those that are removed may have no path."""
    left, has_begun = at, False

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal left, has_begun
        if event not in EVENTS or (os.path.isabs(named := str(arguments[0])) and not named.startswith(out)):
            return
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        has_begun = has_begun or named.endswith("work/data")
        left -= has_begun
        if has_begun and not left:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def obey(order: dict[str, Any]) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        atexit.register(os._exit, 1)
        kill_at(order["out"], order["at"])
        os.write(writing, json.dumps(act(order["do"], order["out"])).encode())
        os._exit(0)
    os.close(writing)
    print(pid, flush=True)
    with os.fdopen(reading, "rb") as answer:
        text = answer.read()
    print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), json.loads(text or b"null")]), flush=True)


if __name__ == "__main__":
    for line in sys.stdin:
        obey(json.loads(line))
