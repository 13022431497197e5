"""Loads the shipped pipeline as its own program does, with its folder at the head of the path."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).parents[2] / "configs" / "nemotron_dria" / "pipeline.py"
_NAMES = ("pipeline", "topics", "questions", "answers")


@contextmanager
def nemotron() -> Generator[Any]:
    """The module of the program."""
    sys.path.insert(0, str(PROGRAM.parent))
    try:
        yield importlib.import_module("pipeline")
    finally:
        sys.path.remove(str(PROGRAM.parent))
        for name in [name for name in sys.modules if name.partition(".")[0] in _NAMES]:
            del sys.modules[name]
