"""Holds what a step raises, so that it fails one row and nothing else, and says what it was."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence
from typing import Any

from raypipe.contracts.step import Step
from raypipe.row import Values


class Boundary:
    """Holds what a step raised, so that it fails one row and nothing else."""

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
        is_interrupt = isinstance(error, KeyboardInterrupt) and not _is_main_thread()
        if is_interrupt or (isinstance(error, SystemExit | asyncio.CancelledError) and not is_cancelled()):
            code = error.code if isinstance(error, SystemExit) else None
            shown = f" {code}" if type(code) in (int, str) else ""
            self.error = RuntimeError(f"the step raised {type(error).__name__}{shown}")
            return True
        return False


def _is_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def said(error: BaseException) -> str:
    """What an exception says, however long it is and whatever its own code does when it is asked."""
    text = ""
    with Boundary() as boundary:
        text = str.__str__(str(error))
    if boundary.error is not None:
        return f"(its text cannot be made: {type(boundary.error).__name__})"
    return text if len(text) <= _MOST_SAID else f"{text[:_MOST_SAID]}… ({len(text):,} characters)"


def named(error: BaseException) -> str:
    """The class of an exception and what it says."""
    return f"{type(error).__name__}: {said(error)}"


_MOST_SAID = 20_000


def is_cancelled() -> bool:
    """Whether this task is to end, and did not raise what says so by itself."""
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return False
    return task is not None and task.cancelling() > 0


def close_step(name: str, step: Step) -> None:
    """Let a step give back what it holds; its rows are done, so what it raises is logged and changes none of them."""
    with Boundary() as boundary:
        step.close()
    if boundary.error is not None:
        logging.getLogger("raypipe").warning("step %r could not be unloaded: %s", name, named(boundary.error))
    step.keep_artifacts_in(None)


def process_rows(step: Step, rows: Sequence[Values]) -> list[Any]:
    if step.is_given_batches:
        with Boundary():
            return step.process_batch_in_thread(rows)
    return [_process_row(step, row) for row in rows]


def _process_row(step: Step, row: Values) -> Any:
    with Boundary() as boundary:
        return step.process_row_in_thread(row)
    return boundary.error
