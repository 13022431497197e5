"""The cut of the house, as figures: floors, loose modules, cycles, hidden imports; and the stubs of what loads late."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

from tests.figures import figures

ROOT = Path(__file__).parents[1]

AT_MOST = {
    "largest cycle at load": 0,
    "largest cycle of all imports": 0,
    "loose modules": 6,
    "floors": 11,
    "lines of all layer lists": 20,
    "hidden imports": 60,
    "lines of a file, 90th percentile": 300,
    "lines of a function, most": 50,
    # Fragments make a reader jump: a function that only names one line is written where it is used.
    "functions of five lines or fewer": 0.4,
    "functions in 1,000 lines": 85,
    "docstrings in the first person": 0,
}


def test_the_house_keeps_its_figures() -> None:
    found = figures(ROOT)
    assert {name: found[name] for name, most in AT_MOST.items() if found[name] > most} == {}


def names_in_stub(path: Path) -> set[str]:
    """What a stub says that its module gives."""
    names: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.FunctionDef):
            names.add(node.name)
    return names


@pytest.mark.parametrize("module", ["raypipe", "raypipe.steps"])
def test_a_stub_says_what_its_module_gives(module: str) -> None:
    loaded = importlib.import_module(module)
    path = Path(loaded.__file__ or "").with_suffix(".pyi")
    assert names_in_stub(path) - {"AnyStep"} == {*loaded.__all__}
    for name in loaded.__all__:
        assert getattr(loaded, name) is not None


def test_what_there_is_not_is_an_error() -> None:
    import raypipe

    with pytest.raises(AttributeError, match="Pipelin"):
        raypipe.Pipelin  # type: ignore[attr-defined]  # noqa: B018
    assert "Pipeline" in dir(raypipe)
