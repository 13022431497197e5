"""Measures, from any thread, for how long an event loop has not turned, and finds what holds it up.

Knows nothing of rows. A synchronous call in an async step stops everything that its loop does; the process lives all
the same, and another thread of it can say what is going on.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])

_TURN_EVERY_S = 1.0
HELD_S = 5.0
"""A loop that has not turned for so long is held up."""
_PACKAGE = str(Path(__file__).parents[1])


_STEP_IN: dict[CodeType, str] = {}
"""The variable with a step's name, by the code that has it."""


def works_for(variable: str) -> Callable[[F], F]:
    """Marks a function that works for the step whose name is in this variable of its own."""

    def mark(function: F) -> F:
        _STEP_IN[function.__code__] = variable
        return function

    return mark


@dataclass
class LoopLag:
    """Of the loop in which `run` is awaited."""

    _thread: int = field(default=0, init=False)
    _turned: float = field(default_factory=time.monotonic, init=False)

    async def run(self) -> None:
        """Note that the loop turns, for as long as it does."""
        self._thread = threading.get_ident()
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(_TURN_EVERY_S)

    def described(self, whose: str) -> str:
        """A description of what holds the loop up; empty where it turns, or does not run yet."""
        held_s = time.monotonic() - self._turned - _TURN_EVERY_S
        if not self._thread or held_s < HELD_S:
            return ""
        step, where = self._holder()
        what = f"step {step!r}" if step else "a function"
        return f"{what} ({where}), which has not let the event loop of {whose} turn for {held_s:.0f} s"

    def _holder(self) -> tuple[str, str]:
        """The step, and the line of the user's code that is at work: what raypipe has called."""
        frame = sys._current_frames().get(self._thread)  # pyright: ignore[reportPrivateUsage]
        step, where = "", "unknown"
        inner: FrameType | None = None
        while frame is not None:
            if frame.f_code.co_filename.startswith(_PACKAGE):
                seen = inner or frame
                line = f"{Path(seen.f_code.co_filename).name}:{seen.f_lineno}"
                where = line if where == "unknown" else where
            if frame.f_code in _STEP_IN:
                step = frame.f_locals[_STEP_IN[frame.f_code]]
            frame, inner = frame.f_back, frame
        return step, where
