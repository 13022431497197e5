"""The rules of the house that no single module can show: floors, sizes, names, doors, secrets, shipped files."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import raypipe
from raypipe.contracts.llm import LLM
from raypipe.errors import RaypipeError
from raypipe.models import open_model
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from tests.acceptance.chain import answer, chain, topics
from tests.configs.shipped import SPECS
from tests.loopback import serve

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "raypipe").rglob("*.py"))

MOST_LINES = 400
MOST_LINES_OF_A_FUNCTION = 50
MOST_PARAMETERS = 6
MOST_METHODS = 20
MOST_LINES_OF_A_CLASS = 250
EMPTY_WORDS = {
    "manager", "handler", "processor", "helper", "helpers", "util", "utils", "wrapper", "factory", "common", "misc",
}  # fmt: skip

Function = ast.FunctionDef | ast.AsyncFunctionDef


def definitions(path: Path) -> Iterator[Function | ast.ClassDef]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function | ast.ClassDef):
            yield node


def words(name: str) -> set[str]:
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower().split("_"))


def parameters(function: Function) -> int:
    given = function.args
    names = [each.arg for each in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def is_command(function: Function) -> bool:
    """The parameters of a command are its options."""
    return any(".command(" in ast.unparse(each) for each in function.decorator_list)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_floors_hold() -> None:
    # In a process of its own: it sets up logging anew, and disables the loggers that later tests listen to.
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run([*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES
    for found in definitions(path):
        if isinstance(found, Function):
            assert (found.end_lineno or 0) - found.lineno < MOST_LINES_OF_A_FUNCTION, found.name
            assert parameters(found) <= MOST_PARAMETERS or is_command(found), found.name


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_classes_are_small(path: Path) -> None:
    for found in definitions(path):
        if isinstance(found, ast.ClassDef):
            assert sum(isinstance(each, Function) for each in found.body) <= MOST_METHODS, found.name
            assert (found.end_lineno or 0) - found.lineno < MOST_LINES_OF_A_CLASS, found.name


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_no_name_is_empty_of_meaning(path: Path) -> None:
    names = [path.stem, *(found.name for found in definitions(path))]
    assert [name for name in names if words(name) & EMPTY_WORDS] == []


def test_what_a_module_names_is_there() -> None:
    for module in pkgutil.walk_packages(raypipe.__path__, "raypipe."):
        if module.name.endswith("__main__") or module.name == "raypipe.models.vllm":
            continue
        loaded: Any = importlib.import_module(module.name)
        for name in getattr(loaded, "__all__", ()):
            assert getattr(loaded, name) is not None, f"{module.name}.{name}"
    assert all(hasattr(raypipe, name) for name in getattr(raypipe, "__all__", ()))


@pytest.mark.parametrize(
    "module", ["raypipe", "raypipe.pipeline", "raypipe.steps", "raypipe.models", "raypipe.run.run", "raypipe.dria"]
)
def test_importing_opens_no_door(module: str) -> None:
    doors = ("ray", "aiohttp", "vllm", "torch", "rich", "typer", "datasets", "pandas", "genai_prices")
    code = f"import sys, {module}; print(*[name for name in {doors} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("path", SPECS, ids=relative)
def test_every_shipped_file_is_sound(path: Path) -> None:
    plan = Pipeline.from_file(path).validate()
    assert plan.describe().startswith(f"pipeline {plan.name}: ")


CANARY = "sk-canary-4f1d0a7be93c"


def written(folder: Path) -> Iterator[tuple[str, str]]:
    """Every file's name and content, the content of Parquet unpacked as well."""
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path), path.read_bytes().decode("latin-1")
            if path.suffix == ".parquet":
                yield str(path), repr(pq.read_table(path).to_pylist()) + repr(pq.read_schema(path).metadata)


@pytest.mark.parametrize("shares", [{}, {400: 0.5}, {401: 1.0}, {500: 1.0}], ids=str)
def test_a_key_is_written_nowhere(
    shares: dict[int | str, float],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not even where the endpoint repeats it in its errors."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    said: list[str] = []
    error = {"message": f"wrong header 'Authorization: Bearer {CANARY}'", "code": CANARY}
    with serve(answer=answer, shares=shares, error=error) as server:
        pipeline = chain(server.base_url, topics(19), max_tries=1)
        try:
            result: Result | None = pipeline.run(tmp_path / "out", engine="local")
        except RaypipeError as caught:
            result = None
            said += [str(caught), repr(caught), repr(vars(caught)), repr(caught.__cause__), repr(caught.__context__)]
        assert server.requests[0].authorization == f"Bearer {CANARY}"
    llm = LLM("openai/loopback", base_url=server.base_url)
    said += [repr(llm), repr(open_model(llm)), repr(vars(open_model(llm)))]
    said += [pipeline.to_yaml(), repr(pipeline), pipeline.plan().describe(), repr(pipeline.plan()), repr(result)]
    said += [*capfd.readouterr(), caplog.text, *(part for file in written(tmp_path) for part in file)]
    assert all(CANARY not in part for part in said)
    assert (result is None) == (shares == {401: 1.0})
