"""Measures how the package is built: `python -m tests.figures [FOLDER]` prints one figure a line.

Imports are read from the source, those in functions and under `TYPE_CHECKING` included. A room is a folder or a loose
module of the package; an arrow is a pair of rooms of which one imports the other.
"""

from __future__ import annotations

import ast
import statistics
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Import:
    """One import of a module of the package."""

    source: str
    target: str
    is_hidden: bool
    """Inside a function or under `TYPE_CHECKING`."""


def modules_of(package: Path) -> dict[str, Path]:
    """Modules by their dotted names."""
    found: dict[str, Path] = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports_of(name: str, path: Path, known: Mapping[str, Path]) -> Iterator[Import]:
    """Imports of modules of the package."""

    def visit(node: ast.AST, is_hidden: bool) -> Iterator[Import]:
        for inner in ast.iter_child_nodes(node):
            if isinstance(inner, ast.ImportFrom) and inner.module and not inner.level:
                for alias in inner.names:
                    submodule = f"{inner.module}.{alias.name}"
                    target = submodule if submodule in known else inner.module
                    if target in known and target != name:
                        yield Import(name, target, is_hidden)
            elif isinstance(inner, ast.Import):
                for alias in inner.names:
                    if alias.name in known:
                        yield Import(name, alias.name, is_hidden)
            is_lazy = isinstance(inner, Function) or (
                isinstance(inner, ast.If) and "TYPE_CHECKING" in ast.unparse(inner.test)
            )
            yield from visit(inner, is_hidden or is_lazy)

    return visit(ast.parse(path.read_text()), False)


def largest_cycle(edges: Mapping[str, set[str]]) -> int:
    """Modules in the largest strongly connected part (Tarjan); 0 where there is no cycle."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    largest = 0

    def connect(node: str) -> None:
        nonlocal largest
        index[node] = low[node] = len(index)
        stack.append(node)
        for after in edges.get(node, ()):
            if after not in index:
                connect(after)
                low[node] = min(low[node], low[after])
            elif after in stack:
                low[node] = min(low[node], index[after])
        if low[node] == index[node]:
            part = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            largest = max(largest, len(part)) if len(part) > 1 else largest

    sys.setrecursionlimit(10_000)
    for node in edges:
        if node not in index:
            connect(node)
    return largest


def room_of(module: str) -> str:
    """The folder that a module stands in, or its own name where it is loose."""
    parts = module.split(".")
    return ".".join(parts[:-1]) if len(parts) > 2 else module


def figures(root: Path) -> dict[str, Any]:
    """The figures of the package below `root`."""
    package = root / "raypipe"
    known = modules_of(package)
    imports = [each for name, path in known.items() for each in imports_of(name, path, known)]
    at_load = edges_of([each for each in imports if not each.is_hidden])
    lines = [len(path.read_text().splitlines()) for path in known.values()]
    nodes = [node for path in known.values() for node in ast.walk(ast.parse(path.read_text()))]
    functions = [node for node in nodes if isinstance(node, Function)]
    documented = [node for node in nodes if isinstance(node, Function | ast.ClassDef | ast.Module)]
    lengths = [(node.end_lineno or 0) - node.lineno + 1 for node in functions]
    code = sum(1 for path in known.values() for line in path.read_text().splitlines() if line.strip())
    contracts = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = [contract["layers"] for contract in contracts if contract["type"] == "layers"]
    rooms = {room_of(name) for name in known}
    return {
        "files": len(known),
        "lines": sum(lines),
        "largest cycle at load": largest_cycle(at_load),
        "largest cycle of all imports": largest_cycle(edges_of(imports)),
        "loose modules": sum(1 for path in package.glob("*.py") if path.stem != "__init__"),
        "floors": len(layers[0]),
        "lines of all layer lists": sum(map(len, layers)),
        "rooms": len(rooms),
        "arrows between rooms": len(
            {(room_of(i.source), room_of(i.target)) for i in imports if room_of(i.source) != room_of(i.target)}
        ),
        "hidden imports": len({(each.source, each.target) for each in imports if each.is_hidden}),
        "lines of a file, median": statistics.median(lines),
        "lines of a file, 90th percentile": statistics.quantiles(lines, n=10)[-1],
        "lines of a file, most": max(lines),
        "functions": len(functions),
        "lines of a function, median": statistics.median(lengths),
        "lines of a function, most": max(lengths),
        "functions of five lines or fewer": round(sum(length <= 5 for length in lengths) / len(lengths), 3),
        "functions in 1,000 lines": round(1000 * len(functions) / code, 1),
        "docstrings in the first person": sum(
            (ast.get_docstring(node) or "").startswith(("I ", "I'")) for node in documented
        ),
    }


def edges_of(imports: list[Import]) -> dict[str, set[str]]:
    """Targets by source."""
    edges: dict[str, set[str]] = {}
    for each in imports:
        edges.setdefault(each.source, set()).add(each.target)
        edges.setdefault(each.target, set())
    return edges


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[1]
    for name, value in figures(folder).items():
        print(f"{name:36} {value}")
