"""Packs what a run needs that only this machine has: its pipeline and prompts, input files, modules.

Knows nothing of how it travels. What is given by a relative path comes along and lies there as it lies here; an
absolute path is one of the cluster's. A file of YAML or JSON is packed as the pipeline that it stands for, prompts
within it, changes applied; with a Python file goes its folder.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path

from raypipe.cli.python_files import is_python
from raypipe.cli.specs import Wanted, pipeline_of
from raypipe.contracts.step import Runs
from raypipe.errors import SpecError
from raypipe.files.overrides import read_override
from raypipe.models.reach import key_pairs_of
from raypipe.pipeline import Pipeline
from raypipe.security.permissions import OF_ENGINE, folder_to_allow
from raypipe.security.secrets import is_redacted

LARGEST_BYTES = 200 << 20
_LEFT = ("__pycache__", "node_modules")
_MARKS = ("pyvenv.cfg", ".raypipe")
"""Files that are in a virtual environment, and in a run folder."""


@dataclass(frozen=True)
class Luggage:
    """A packed folder, the working directory inside it, and what is wanted there."""

    folder: Path
    start: str
    wanted: Wanted
    prices: str | None


def pack(pipeline: Pipeline, wanted: Wanted, prices: Path | None, folder: Path) -> Luggage:
    """Copy everything into `folder`, which is there and empty. Raises SpecError when it is too much."""
    here = Path.cwd()
    _check_settings(wanted)
    path, _, name = wanted.spec.rpartition(".py:") if ".py:" in wanted.spec else (wanted.spec, "", "")
    program = Path(f"{path}.py" if name else path).absolute() if is_python(wanted.spec) else None
    found: dict[Path, None] = dict.fromkeys(_inputs(pipeline, wanted))
    if program is not None:
        found |= dict.fromkeys(_code(program.parent))
    if prices is not None:
        found[prices.absolute()] = None
    found = {Path(os.path.normpath(each)): None for each in found}
    root = Path(os.path.commonpath([here, *(each.parent for each in found)]))
    _check_size(list(found), here)
    start = folder / here.relative_to(root)
    start.mkdir(parents=True, exist_ok=True)
    for each in found:
        _copy(each, folder / each.relative_to(root))
    for module in (one for one in wanted.allow_import if not one.startswith(OF_ENGINE)):
        _pack_module(module.partition(".")[0], folder)
    if program is not None:
        _pack_beside(program, folder)
    if program is None:
        (start / "pipeline.yaml").write_text(_written(wanted), encoding="utf-8")
        spec = replace(wanted, spec="pipeline.yaml", settings=(), models=(), base_urls=())
        spec = replace(spec, allow_files=_folders(pipeline, wanted), allow_keys=_keys(pipeline, wanted))
    else:
        spec = replace(wanted, spec=f"{os.path.relpath(program, here)}{f':{name}' if name else ''}")
    shown = None if prices is None else os.path.relpath(prices, here)
    return Luggage(folder, os.path.relpath(start, folder), spec, shown)


def _written(wanted: Wanted) -> str:
    pipeline = pipeline_of(wanted)
    if is_redacted(pipeline.dump()):
        raise _with_secret("the pipeline")
    return pipeline.to_yaml()


def _check_settings(wanted: Wanted) -> None:
    """Raises SpecError for a secret that would stand in the job's record."""
    for text in wanted.settings:
        setting = read_override(text)
        if setting.where != f"--set {text}":
            raise _with_secret(setting.where)


def _with_secret(where: str) -> SpecError:
    problem = "holds a secret, and the command of a job is recorded in plain text"
    way = "set an environment variable on the nodes, and name that (api_key_env, headers_env, params_env)"
    return SpecError.of(where, f"{problem}; {way}")


def _inputs(pipeline: Pipeline, wanted: Wanted) -> Iterator[Path]:
    """Files that loaders name by a path relative to this folder."""
    named = [wanted.input] if wanted.input is not None else []
    named += _named(pipeline)
    for path in dict.fromkeys(named):
        if os.path.isabs(os.path.expanduser(path)) or "://" in path:
            continue
        for match in sorted(glob.glob(path, recursive=True)) or [path]:
            yield from _files_at(Path(match).absolute())


def _named(pipeline: Pipeline) -> list[str]:
    """What loaders say about files."""
    sources = [step for step in pipeline.steps if step.runs is Runs.SOURCE]
    options = [(name, getattr(step, name)) for step in sources for name in type(step).model_fields]
    return [path for name, value in options for path in _paths(name, value)]


def _folders(pipeline: Pipeline, wanted: Wanted) -> tuple[str, ...]:
    """Folders that the job's file may read below beside its own: what was allowed here, and what was said here."""
    here = Path.cwd()
    above = [folder_to_allow(path) for path in _named(pipeline)]
    outside = [folder for folder in above if not Path(os.path.normpath(here / folder)).is_relative_to(here)]
    return tuple(dict.fromkeys([*wanted.allow_files, *outside]))


def _keys(pipeline: Pipeline, wanted: Wanted) -> tuple[str, ...]:
    """Keys with the hosts that they may be sent to there: what was allowed here, and what was said here."""
    said = [pair for step in pipeline.steps if step.llm is not None for pair in key_pairs_of(step.llm)]
    return tuple(dict.fromkeys([*wanted.allow_keys, *said]))


def _paths(option: str, value: object) -> Sequence[str]:
    """What an option says about files; a text that is no path stands for none."""
    if not any(word in option for word in ("path", "file", "dir", "folder", "repo_id")):
        return ()
    values: Sequence[object] = value if isinstance(value, list | tuple) else [value]
    return [each for each in values if isinstance(each, str) and each]


def _files_at(path: Path) -> Iterator[Path]:
    """The file at a path, or those of a folder that are not hidden; none where neither is there."""
    if path.is_file():
        yield path
    for parent, folders, names in os.walk(path):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _code(folder: Path) -> Iterator[Path]:
    """What lies beside a Python file and below; no hidden files, caches, virtual environments or run folders."""
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in _LEFT]
        folders[:] = [name for name in folders if not any(Path(parent, name, mark).exists() for mark in _MARKS)]
        yield from (Path(parent, name) for name in names if not name.startswith("."))


def _pack_module(package: str, folder: Path) -> None:
    """A package that may be imported, unless it is installed here: then the cluster must have it as well."""
    spec = find_spec(package)
    if spec is None or spec.origin is None or any(part in spec.origin for part in ("site-packages", "dist-packages")):
        return
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        _copy(origin, folder / origin.name)
        return
    for each in _code(origin.parent):
        _copy(each, folder / package / each.relative_to(origin.parent))


def _pack_beside(program: Path, folder: Path) -> None:
    """The modules beside a Python file once more, where workers look for them: its own folder only the driver knows."""
    for module in program.parent.iterdir():
        is_package = (module / "__init__.py").is_file()
        target = folder / module.name
        if target.exists() or module == program or not (is_package or module.suffix == ".py"):
            continue
        for each in _code(module) if is_package else [module]:
            _copy(each, folder / each.relative_to(program.parent))


def _copy(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, target)


def _check_size(paths: Sequence[Path], here: Path) -> None:
    sizes = {path: path.stat().st_size for path in paths}
    total = sum(sizes.values())
    if total > LARGEST_BYTES:
        largest = max(sizes, key=lambda path: sizes[path])
        problem = f"what goes with the job is {total >> 20} MiB, and at most {LARGEST_BYTES >> 20} MiB may"
        way = "put it where all nodes find it, and name it by its absolute path there"
        said = f"{problem}; the largest is {os.path.relpath(largest, here)} ({sizes[largest] >> 20} MiB): {way}"
        raise SpecError.of("submit", said)
