"""Loads the pipeline that a Python file holds.

Knows nothing of how it is run. The module gets a name of its own, so that a file called `json.py` hides nothing; its
folder is importable as it is for `python file.py`.
"""

from __future__ import annotations

import re
import sys
import traceback
from dataclasses import dataclass
from hashlib import blake2b
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType, TracebackType

from raypipe.contracts.imports import FROM_FILE
from raypipe.errors import RaypipeError, SpecError, nearest
from raypipe.pipeline import Pipeline


def is_python(spec: str) -> bool:
    """Whether SPEC names a Python file: `file.py` or `file.py:name`."""
    return spec.endswith(".py") or ".py:" in spec


def load_pipeline(spec: str) -> Pipeline:
    """The pipeline that `file.py:name` names, or the only one of `file.py`. Raises SpecError."""
    stem, _, name = spec.rpartition(".py:") if ".py:" in spec else (spec.removesuffix(".py"), "", "")
    path = Path(f"{stem}.py")
    if not path.is_file():
        raise SpecError.of(str(path), "is not there; check its spelling")
    module = _loaded(path.absolute())
    found = {key: value for key, value in vars(module).items() if isinstance(value, Pipeline)}
    if not name and len(found) == 1:
        return next(iter(found.values()))
    if name in found:
        return found[name]
    raise SpecError.of(str(path), _missing(path, name, found))


def _missing(path: Path, name: str, found: dict[str, Pipeline]) -> str:
    if not found:
        return "holds no Pipeline; make one with `with Pipeline(...) as pipeline:` at the top of the file"
    if not name:
        listed = ", ".join(f"{path}:{key}" for key in found)
        return f"holds several pipelines; name one of {listed}"
    return f"holds no Pipeline {name!r}{nearest(name, list(found))}"


def _loaded(path: Path) -> ModuleType:
    digest = blake2b(str(path).encode(), digest_size=4).hexdigest()
    name = f"{FROM_FILE}{re.sub(r'[^A-Za-z0-9_]', '_', path.stem)}_{digest}"
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    # Annotations of dataclasses and pydantic classes are looked up there.
    sys.modules[name] = module
    with _ErrorsOfFile(path):
        spec.loader.exec_module(module)
    return module


@dataclass(frozen=True)
class _ErrorsOfFile:
    """A block that runs a user's file: what goes wrong in it is a violation of that file, with the line."""

    path: Path

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, RaypipeError | KeyboardInterrupt):
            return
        lines = [frame.lineno for frame in traceback.extract_tb(trace) if frame.filename == str(self.path)]
        line = getattr(error, "lineno", None) or (lines[-1] if lines else None)
        where = f"{self.path}, line {line}" if line else str(self.path)
        said = "the file ends the process" if isinstance(error, SystemExit) else f"{type(error).__name__}: {error}"
        raise SpecError.of(where, said) from error
