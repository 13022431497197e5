"""SECURITY.md says nothing that no test holds."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "SECURITY.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", TEXT)
LINES = [line for line in TEXT.splitlines() if line.startswith("| ") and not line.startswith("| may |")]


def names_in(path: str) -> set[str]:
    found = ast.walk(ast.parse((ROOT / path).read_text()))
    return {node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)), ids=str)
def test_a_test_that_is_named_is_there(path: str, name: str) -> None:
    assert (ROOT / path).is_file()
    assert not name or name in names_in(path)


def test_every_line_names_its_test() -> None:
    assert len(LINES) > 20
    assert [line for line in LINES if "::test_" not in line] == []


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from pickle import loads", "import _pickle", "import cloudpickle", "import dill"),
        *("from ray import cloudpickle", "import marshal", "import shelve", "eval('1')", "exec('1')"),
        *("yaml.load('a', Loader=yaml.Loader)", "yaml.unsafe_load('a')", "yaml.full_load('a')"),
        *("from urllib.request import urlopen", "urllib.request.urlretrieve(str(1))", "pandas.read_pickle('x')"),
    ],
)
@pytest.mark.parametrize("path", ["raypipe/steps/new.py", "raypipe/files/schema.py"])
def test_what_runs_code_or_fetches_is_refused_by_the_linter(path: str, line: str) -> None:
    """The exceptions of `config.py` are for its own loader of YAML."""
    made = f"import pandas\nimport urllib.request\nimport yaml\n{line}\n"
    words = ["ruff", "check", "--no-cache", "--output-format=concise", f"--stdin-filename={path}", "-"]
    said = subprocess.run(words, input=made, capture_output=True, text=True, cwd=ROOT, timeout=60).stdout
    is_own = path == "raypipe/files/schema.py" and "yaml.load(" in line
    assert is_own or re.search(r":4:\d+: (S102|S301|S307|S310|S506|TID251) ", said), said
