"""Catches what a step raises, so that it fails one row and nothing else, and describes it."""

from __future__ import annotations

import asyncio
import logging
import threading

from raypipe.contracts.step import Step

_LONGEST_TEXT = 20_000


class Boundary:
    """Catches what a step raises; `error` is what it raised."""

    error: Exception | None = None

    def __enter__(self) -> Boundary:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        if error is None:
            return False
        if isinstance(error, Exception):
            self.error = error
            return True
        # A signal's KeyboardInterrupt comes in the main thread alone; elsewhere it is the step's own.
        is_main_thread = threading.current_thread() is threading.main_thread()
        is_interrupt = isinstance(error, KeyboardInterrupt) and not is_main_thread
        if is_interrupt or (isinstance(error, SystemExit | asyncio.CancelledError) and not is_cancelled()):
            code = error.code if isinstance(error, SystemExit) else None
            shown = f" {code}" if type(code) in (int, str) else ""
            self.error = RuntimeError(f"the step raised {type(error).__name__}{shown}")
            return True
        return False


def error_text(error: BaseException) -> str:
    """The text of an exception, shortened, whatever its own code does when it makes the text."""
    text = ""
    with Boundary() as boundary:
        text = str.__str__(str(error))
    if boundary.error is not None:
        return f"(its text cannot be made: {type(boundary.error).__name__})"
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]}… ({len(text):,} characters)"


def describe(error: BaseException) -> str:
    """The class of an exception and its text."""
    return f"{type(error).__name__}: {error_text(error)}"


def is_cancelled() -> bool:
    """Whether this task was cancelled from outside, and did not raise CancelledError by itself."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return False
    return task is not None and task.cancelling() > 0


def close_step(name: str, step: Step) -> None:
    """Close a step. Its rows are done, so what it raises is logged and changes none of them."""
    with Boundary() as boundary:
        step.close()
    if boundary.error is not None:
        logging.getLogger("raypipe").warning("step %r could not be unloaded: %s", name, describe(boundary.error))
    step.keep_artifacts_in(None)
