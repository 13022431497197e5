"""Loads programs that were written for Dria, with their imports changed and nothing else."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

PROGRAMS = Path(__file__).parent / "programs"
NAMES = ("variations", "flattened", "nemotron_qa")


def substituted(program: str) -> str:
    """The text of a program whose imports say raypipe."""
    program = re.sub(r"^from dria_workflows\b", "from raypipe.workflows", program, flags=re.MULTILINE)
    return re.sub(r"^from dria\b", "from raypipe.dria", program, flags=re.MULTILINE)


@contextmanager
def loaded(folder: Path) -> Generator[SimpleNamespace]:
    """The programs by name; `folder` takes their changed copies."""
    shutil.copytree(PROGRAMS, folder, dirs_exist_ok=True)
    for path in folder.rglob("*.py"):
        path.write_text(substituted(path.read_text()))
    before = set(sys.modules)
    try:
        yield SimpleNamespace(**{name: _module(folder, name) for name in NAMES})
    finally:
        for name in set(sys.modules) - before:
            if name.partition(".")[0] in NAMES:
                del sys.modules[name]


def _module(folder: Path, name: str) -> object:
    """Not by `sys.path`, which the workers of a Ray that runs already have not heard of."""
    place = folder / name / "__init__.py" if (folder / name).is_dir() else folder / f"{name}.py"
    parts = [str(place.parent)] if place.name == "__init__.py" else None
    spec = importlib.util.spec_from_file_location(name, place, submodule_search_locations=parts)
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
