"""Training datasets from pipelines of language-model calls, on a laptop or a Ray cluster.

The public names are loaded when they are first used: `import raypipe` itself loads none of them. Their types stand in
`__init__.pyi`.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_EXPORTS = {
    "raypipe.errors": (
        "InfrastructureError", "InputError", "OutputError", "RaypipeError", "RowError", "SpecError", "StoppedError",
    ),
    "raypipe.models": ("LLM",),
    "raypipe.pipeline": ("Pipeline",),
    "raypipe.results": ("DryRun", "Result"),
    "raypipe.steps": (
        "Filter", "GeneratorStep", "GlobalStep", "KeepColumns", "LoadDataFromDicts", "LoadDataFromFileSystem",
        "LoadDataFromHub", "Step", "StepInput", "StepResources", "Task", "TextGeneration", "make_generator_step",
        "step", "task",
    ),
}  # fmt: skip
_MODULES = {name: module for module, names in _EXPORTS.items() for name in names}

__all__ = sorted([*_MODULES, "__version__"])  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, loaded now. Raises AttributeError for any other."""
    if name == "__version__":
        found: Any = _version()
    elif name in _MODULES:
        found = getattr(import_module(_MODULES[name]), name)
    else:
        raise AttributeError(f"module 'raypipe' has no attribute {name!r}; it has {', '.join(__all__)}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version  # 25 ms

    try:
        return version("raypipe")
    except PackageNotFoundError:
        return "unknown, from a folder where it is not installed"
