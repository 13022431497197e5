"""What the tests of the command line share: a runner in this process, and a small pipeline file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from typer.testing import CliRunner, Result

# With pandas known, the command line leaves the process as it is for the tests that follow.
pa.table({}).to_pandas()

Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `raypipe` with some arguments, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    from raypipe.cli.commands import app

    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


def written(path: Path, plain: dict[str, Any]) -> Path:
    path.write_text(yaml.safe_dump(plain, sort_keys=False))
    return path


def tiny(**changes: Any) -> dict[str, Any]:
    """Three topics, a list of parts of each, a text on each part."""
    topics = [{"topic": topic} for topic in ("sea", "sky", "sun")]
    return {
        "name": "tiny",
        "models": {"writer": {"uri": "offline/stand-in", "options": {"answers": {"List": "a, b", "Write": "fine"}}}},
        "steps": [
            {"name": "seed", "type": "LoadDataFromDicts", "data": topics},
            {
                "name": "parts",
                "type": "TextGeneration",
                "llm": "writer",
                "template": "List {{ topic }}",
                "parse": "comma_list",
                "output": "part",
                "scatter": True,
            },
            {"name": "texts", "type": "TextGeneration", "llm": "writer", "template": "Write {{ part }}"},
        ],
    } | changes


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """The file of `tiny()`."""
    return written(tmp_path / "tiny.yaml", tiny())
