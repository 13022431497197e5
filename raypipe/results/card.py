"""Writes the card of a dataset: a README.md whose header tells the hub's readers where each dataset is.

Knows nothing of the hub. What it states comes from the manifest and the rows, so that anyone can check it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from keyword import iskeyword
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import yaml

from raypipe.errors import InputError
from raypipe.row import RESERVED
from raypipe.security.untrusted_tables import names_extension_types, open_parquet
from raypipe.storage.artifacts import ARTIFACTS, list_artifacts
from raypipe.storage.paths import reading
from raypipe.storage.run_files import LocalCopy

PARQUET = "part-*.parquet"
ARROW = "data-*.arrow"

_SIZES = (
    (10**3, "n<1K"),
    (10**4, "1K<n<10K"),
    (10**5, "10K<n<100K"),
    (10**6, "100K<n<1M"),
    (10**7, "1M<n<10M"),
    (10**8, "10M<n<100M"),
    (10**9, "100M<n<1B"),
    (10**10, "1B<n<10B"),
    (10**11, "10B<n<100B"),
    (10**12, "100B<n<1T"),
)
_MOST_ITEMS = 10
_MOST_CHARACTERS = 600
_ROUND_TRIP = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS


def card(result: LocalCopy, repo_id: str, license: str | None = None, files: str = PARQUET) -> str:
    """README.md of the dataset `repo_id`, or of a folder with that name: YAML header and Markdown.

    `files`: pattern of the files in `data/<leaf>/`. A leaf without rows is not among the configurations, since
    `datasets` (5.2) raises at a split without rows.
    """
    leaves: Mapping[str, Any] = result.manifest["leaves"]
    most = max((leaf["rows"] for leaf in leaves.values()), default=0)
    header: dict[str, Any] = {
        **({"license": license} if license is not None else {}),
        "pretty_name": _one_line(result.manifest["pipeline"]),
        "size_categories": [next((words for bound, words in _SIZES if most < bound), "n>1T")],
        "tags": ["synthetic", "raypipe"],
        "configs": [
            {"config_name": name, "data_files": [{"split": "train", "path": f"data/{leaf}/{files}"}]}
            for leaf, name in config_names(list(leaves)).items()
            if leaves[leaf]["rows"]
        ],
    }
    front = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return f"---\n{front}---\n\n" + "\n".join(_body(result, repo_id)) + "\n"


def config_names(leaves: Sequence[str]) -> dict[str, str]:
    """The name under which each leaf is loaded; a single one needs none to be loaded by."""
    return {leaf: "default" if len(leaves) == 1 else leaf for leaf in leaves}


def list_data_files(folder: Path) -> list[Path]:
    """The files of a leaf in order: Parquet parts, or the Arrow files of a saved dataset.

    Raises InputError for a file that names extension types of Arrow's: no run writes one, and a library that registers
    such a type may run code when the file is opened.
    """
    files = sorted(folder.glob(PARQUET)) or sorted(folder.glob(ARROW))
    for path in files:
        with reading(path):
            is_foreign = names_extension_types(path)
        if is_foreign:
            problem = "names an extension type of Arrow's, which no run writes; it is not opened"
            raise InputError(f"file {str(path)!r} {problem}")
    return files


# The body.


def _body(result: LocalCopy, repo_id: str) -> Iterator[str]:
    manifest = result.manifest
    yield f"# {_text(repo_id)}"
    yield ""
    version = f" {manifest['raypipe']}" if manifest.get("raypipe") else ""
    yield f"Synthetic data, made by the pipeline **{_text(manifest['pipeline'])}** with raypipe{version}."
    if manifest.get("stopped"):
        yield f"The run was stopped before its end ({_text(manifest['stopped'])}), so rows are missing."
    yield from _usage(manifest, repo_id)
    yield from _models(manifest)
    yield from _steps(manifest)
    yield from _failures(result)
    yield from _artifacts(result)
    for leaf in manifest["leaves"]:
        yield from _sample(result, leaf)


def _usage(manifest: Mapping[str, Any], repo_id: str) -> Iterator[str]:
    leaves = manifest["leaves"]
    yield from ("", "## Datasets", "", "```python", "from datasets import load_dataset", "")
    for leaf, name in config_names(list(leaves)).items():
        if not leaves[leaf]["rows"]:
            continue
        chosen = "" if len(leaves) == 1 else f', "{name}"'
        variable = re.sub(r"\W", "_", leaf)
        variable = variable if variable.isidentifier() and not iskeyword(variable) else f"rows_{variable}"
        yield f'{variable} = load_dataset("{repo_id}"{chosen}, split="train")  # {leaves[leaf]["rows"]:,} rows'
    yield from ("```", "", "Columns that begin with `_` say where a row comes from: `_source_id` is the same for all")
    yield "rows that were made of one source row."
    folder = re.sub(r"[^A-Za-z0-9_.-]+", "-", str(manifest["pipeline"])).strip("-.") or "pipeline"
    yield from ("", "## How to run it again", "", "```console", "$ pip install raypipe")
    if "/" in repo_id:
        yield f"$ hf download {repo_id} pipeline.yaml --repo-type dataset --local-dir ."
    yield f"$ raypipe run pipeline.yaml --out out/{folder}"
    yield "```"


def _models(manifest: Mapping[str, Any]) -> Iterator[str]:
    if not manifest["models"]:
        return
    yield from ("", "## Models", "")
    yield from _table(
        ["model", "calls", "of which estimated", "from the call log", "tokens in", "tokens out", "cost"],
        [
            [
                name,
                f"{figures['calls_sent']:,}",
                f"{figures.get('calls_estimated', 0):,}",
                f"{figures['calls_cached']:,}",
                f"{figures['input_tokens']:,}",
                f"{figures['output_tokens']:,}",
                "unknown" if figures["cost_usd"] is None else f"${figures['cost_usd']:,.2f}",
            ]
            for name, figures in manifest["models"].items()
        ],
    )
    if "spent" in manifest:
        total, legs = manifest["spent"], len(manifest["legs"])
        cost = "unknown" if total["cost_usd"] is None else f"${total['cost_usd']:,.2f}"
        runs = "1 run" if legs == 1 else f"{legs:,} runs"
        estimated = f", of which {total['calls_estimated']:,} are estimated" if total["calls_estimated"] else ""
        yield from (
            "",
            f"Made by {runs}, which sent {total['calls_sent']:,} calls{estimated}, and cost {cost} together.",
        )


def _steps(manifest: Mapping[str, Any]) -> Iterator[str]:
    yield from ("", "## Steps", "")
    counted = ("rows_in", "rows_done", "rows_failed", "rows_filtered", "rows_out")
    rows = [
        [name, figures["model"] or "", *(f"{figures[count]:,}" for count in counted)]
        for name, figures in manifest["steps"].items()
    ]
    yield from _table(["step", "model", "rows in", "done", "failed", "filtered", "rows out"], rows)


def _failures(result: LocalCopy) -> Iterator[str]:
    yield from ("", "## Failures", "")
    if not result.manifest["failures"]["rows"]:
        yield "No row failed."
        return
    yield f"{result.manifest['failures']['rows']:,} rows failed at a step; what would have come of them is missing."
    yield ""
    found: Counter[tuple[str, str]] = Counter()
    folder = result.path / "failures"
    for batch in chain.from_iterable(_batches(path, columns=["step", "kind"]) for path in list_data_files(folder)):
        pairs = zip(batch.column("step").to_pylist(), batch.column("kind").to_pylist(), strict=True)
        found.update((str(step), str(kind)) for step, kind in pairs)
    yield from _table(["step", "kind", "rows"], [[*which, f"{rows:,}"] for which, rows in sorted(found.items())])


def _artifacts(result: LocalCopy) -> Iterator[str]:
    """What steps saved beside their rows, with its metadata."""
    found = list(list_artifacts(result.path / ARTIFACTS))
    if not found:
        return
    yield from ("", "## Artifacts", "", f"Files that steps saved are in `{ARTIFACTS}/<step>/<artifact>/`.", "")
    notes = [orjson.dumps(artifact.metadata).decode() if artifact.metadata else "" for artifact in found]
    files = [f"{len(artifact.files):,}" for artifact in found]
    rows = [[one.step, one.name, *more] for one, *more in zip(found, files, notes, strict=True)]
    yield from _table(["step", "artifact", "files", "metadata"], rows)


def _sample(result: LocalCopy, leaf: str) -> Iterator[str]:
    name = config_names(list(result.manifest["leaves"]))[leaf]
    yield from ("", f"## A row of `{name}`", "")
    row = first_row(result.path / "data" / leaf)
    if row is None:
        yield "There are no rows."
        return
    own = {column: shorten_values(value) for column, value in row.items() if column not in RESERVED}
    yield from ("```json", orjson.dumps(own, option=_ROUND_TRIP, default=str).decode(), "```")


def first_row(folder: Path) -> dict[str, Any] | None:
    """The first row of a leaf, or `None` when it has none."""
    for batch in chain.from_iterable(_batches(path, size=1) for path in list_data_files(folder)):
        if batch.num_rows:
            return batch.slice(0, 1).to_pylist()[0]
    return None


def _batches(path: Path, size: int = 10_000, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    if path.suffix == ".parquet":
        with reading(path):
            yield from open_parquet(path).iter_batches(size, columns=columns)
        return
    with pa.memory_map(str(path)) as file, pa.ipc.open_stream(file) as stream:
        yield from stream


def shorten_values(value: Any) -> Any:
    """The same value with long texts and lists cut, and how much was cut."""
    if isinstance(value, str) and len(value) > _MOST_CHARACTERS:
        return f"{value[:_MOST_CHARACTERS]}… (+{len(value) - _MOST_CHARACTERS:,} characters)"
    if isinstance(value, bytes):
        return f"({len(value):,} bytes)"
    if isinstance(value, Mapping):
        return {str(key): shorten_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [shorten_values(item) for item in value[:_MOST_ITEMS]]
        more = len(value) - len(items)
        return [*items, f"… (+{more:,} items)"] if more else items
    return value


# Markdown.


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    numbers = {"calls", "of which estimated", "from the call log", "tokens in", "tokens out", "cost", "files"}
    right = [name in numbers or name.startswith("rows") or name in ("done", "failed", "filtered") for name in head]
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---:' if is_right else '---' for is_right in right)} |"
    for row in rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"


def _one_line(text: str) -> str:
    return " ".join(str(text).split())


def _text(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", _one_line(text))
