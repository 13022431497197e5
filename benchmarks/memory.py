"""How does the memory of a run grow with the bytes of its rows? The peak of each process, beyond its start.

    python -m benchmarks.memory --engine local --mib 64 256 1024 4096

`rows`: a file of rows of 2 MB through two steps that keep them. `pieces`: documents of 1 MB, each scattered into 800
pieces that keep their document. The bytes are those of the rows that come out; a run has a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromFiles, step

ROW_BYTES = 2_000_000
DOCUMENT_BYTES, PIECES = 1_000_000, 800
EVERY_S = 0.05


@step(inputs=["text"], outputs={"length": int})
def measured(row: Any) -> Any:
    return {"length": len(row["text"])}


@step(inputs=["length"], outputs={"is_long": bool})
def judged(row: Any) -> Any:
    return {"is_long": row["length"] > 1000}


@step(inputs=["text"], outputs={"piece": str}, scatter=True)
def pieces(row: Any) -> Any:
    size = len(row["text"]) // PIECES
    return [{"piece": row["text"][size * number : size * (number + 1)]} for number in range(PIECES)]


@step(inputs=["piece"], outputs={"length": int})
def piece_measured(row: Any) -> Any:
    return {"length": len(row["piece"])}


def _texts(count: int, size: int) -> Iterator[str]:
    for number in range(count):
        line = f"Row {number} says that nothing of it is lost. "
        yield (line * (size // len(line) + 1))[:size]


def written(path: Path, count: int, size: int) -> None:
    """A file of `count` rows with a text of `size` characters each."""
    if path.suffix == ".jsonl":
        with path.open("w") as lines:
            lines.writelines(json.dumps({"text": text}) + "\n" for text in _texts(count, size))
        return
    schema = pa.schema({"text": pa.string()})
    with pq.ParquetWriter(path, schema, compression="lz4", use_dictionary=False) as file:
        for text in _texts(count, size):
            file.write_table(pa.table({"text": [text]}, schema))


def pipeline_of(kind: str, path: Path) -> Pipeline:
    with Pipeline("memory") as pipeline:
        seed = LoadDataFromFiles(path=str(path))
        if kind == "rows":
            seed >> measured("first") >> judged("last")
        else:
            seed >> pieces("first") >> piece_measured("last")
    return pipeline


class Peaks:
    """The most memory that each process of a tree had, beyond what this one had at first."""

    def __init__(self) -> None:
        self._ended = threading.Event()
        self._peaks: dict[tuple[int, str], int] = {}

    def __enter__(self) -> Peaks:
        self._start = psutil.Process().memory_info().rss
        Path("/proc/self/clear_refs").write_text("5")  # the highest mark so far is forgotten
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def _watch(self) -> None:
        while not self._ended.wait(EVERY_S):
            self._look()

    def _look(self) -> None:
        me = psutil.Process()
        for process in [me, *me.children(recursive=True)]:
            try:
                name = "driver" if process == me else process.cmdline()[0].removeprefix("ray::")
                own = _marks(process.pid)
            except (psutil.Error, OSError, IndexError):
                continue
            key = process.pid, name.rpartition("/")[2]
            self._peaks[key] = max(self._peaks.get(key, 0), own)

    @property
    def driver_bytes(self) -> int:
        """Of this process alone."""
        return max(size for (_, name), size in self._peaks.items() if name == "driver") - self._start

    @property
    def largest(self) -> tuple[str, int]:
        """Of the others, the one that had the most."""
        others = {name: size for (_, name), size in self._peaks.items() if name != "driver"}
        return max(others.items(), key=lambda one: one[1], default=("", 0))


def _marks(pid: int) -> int:
    """Memory of a process that is not a shared file's, in bytes; the highest mark where nothing is shared."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    shared = int(lines["RssShmem"].split()[0])
    return 1024 * (int(lines["VmHWM"].split()[0]) if not shared else int(lines["VmRSS"].split()[0]) - shared)


def run_once(kind: str, mib: int, engine: str, form: str) -> dict[str, Any]:
    """One run in this process."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        size, each = (ROW_BYTES, ROW_BYTES) if kind == "rows" else (DOCUMENT_BYTES, DOCUMENT_BYTES * PIECES)
        count = max(1, (mib << 20) // each)
        path = place / f"rows.{form}"
        subprocess.run([sys.executable, "-m", __spec__.name, "--write", str(path), str(count), str(size)], check=True)
        pipeline = pipeline_of(kind, path)
        with Peaks() as peaks:
            result = pipeline.run(place / "out", engine=engine)  # type: ignore[arg-type]
        rows = len(result["last"])
        files = [pq.ParquetFile(file).metadata for file in result["last"].files]
        groups = max(file.row_group(number).num_rows for file in files for number in range(file.num_row_groups))
        assert rows == count * (1 if kind == "rows" else PIECES) and not result.failed_rows
        other, other_bytes = peaks.largest
        return {
            "rows": rows,
            "driver_mib": peaks.driver_bytes >> 20,
            "other": other,
            "other_mib": other_bytes >> 20,
            "files": len(files),
            "group_rows": groups,
            "wall_s": result.manifest["wall_s"],
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", choices=["local", "ray"], default="local")
    parser.add_argument("--kind", choices=["rows", "pieces"], nargs="+", default=["rows", "pieces"])
    parser.add_argument("--form", choices=["jsonl", "parquet"], default="jsonl")
    parser.add_argument("--mib", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--once", action="store_true", help="run in this process and print JSON")
    parser.add_argument("--write", nargs=3, metavar=("PATH", "COUNT", "BYTES"), help="write a file of rows")
    chosen = parser.parse_args()
    if chosen.write:
        written(Path(chosen.write[0]), int(chosen.write[1]), int(chosen.write[2]))
        return
    if chosen.once:
        print(json.dumps(run_once(chosen.kind[0], chosen.mib[0], chosen.engine, chosen.form)))
        return
    print("engine  kind    MiB out   rows  peak MiB beyond start  largest other process  s      files  rows a group")
    for kind in chosen.kind:
        for mib in chosen.mib:
            options = ["--once", "--engine", chosen.engine, "--kind", kind, "--mib", str(mib), "--form", chosen.form]
            command = [sys.executable, "-m", __spec__.name, *options]
            told = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
            found = json.loads(told.splitlines()[-1])
            other = f"{found['other'][:15]} {found['other_mib']}" if found["other"] else ""
            figures = f"{found['driver_mib']:21d}  {other:>21s}  {found['wall_s']:5.0f}  {found['files']:5d}"
            print(
                f"{chosen.engine:6s}  {kind:6s}  {mib:7d}  {found['rows']:5d}  {figures}  {found['group_rows']:12d}",
                flush=True,
            )


if __name__ == "__main__":
    main()
