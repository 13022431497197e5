"""Starts Ray quietly, or uses the one that is there, and leaves nothing running that it started."""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
import traceback
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import psutil

from raypipe.errors import InfrastructureError
from raypipe.execution.ray.access import explain_failure, probe_cluster

_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A thread that is left behind asks a Ray that is gone: it must not start another one.
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # What workers and the raylet report would be printed to standard output, even with log_to_driver=False.
    "RAY_DEDUP_LOGS": "1",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",
}
_BLOCK_BYTES = 16 << 20
_SMALL_STORE_BYTES = 512 << 20
_LET_GO_S, _LOOK_EVERY_S = 10.0, 0.1
"""How long the work of a run that was left behind may take to let go of Ray."""


def load() -> None:
    """Import Ray. It reads its environment as it is imported, so this comes before anything else of Ray's."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    with _without_banner():
        import ray as _ray

        del _ray


def leave_ray() -> None:
    """A run that uses Ray is left behind: end the Ray that was started for it, at once, or let go of another's.

    A Ray that this process had before the run stays. The work that is left behind lets go of it as soon as it hears:
    Ray may end this process where one thread shuts it down while another waits for it. The next run waits for that.
    """
    for saved in _errors[:1]:  # there is something to say while Ray starts in silence
        os.dup2(saved, 2)
    for held in _held[-1:]:
        held.is_left = held.is_ours
        if held.is_own:
            kill_own_ray()
        _await_end(held)


@dataclass(eq=False)
class _Held:
    """What one session has of Ray."""

    is_ours: bool
    """It was started or joined for it."""
    is_own: bool
    """It was started."""
    is_left: bool = False
    """The run was left behind, and what it did may still go on."""

    def shut_down(self) -> None:
        """Once."""
        import ray

        with _letting_go:
            if self in _held:
                _held.remove(self)
                if self.is_ours:
                    # Identifiers start anew with every Ray of this process: a reference of this one that is dropped
                    # later would take what has the same identifier then.
                    gc.collect()
                    ray.shutdown()


_held: list[_Held] = []
"""One for each session that is open, the last one of them being used."""
_letting_go = threading.Lock()


def _await_end(held: _Held) -> None:
    """The Ray of a run that was left behind is let go of; where its work does not come to that, here."""
    deadline = time.monotonic() + _LET_GO_S
    while held.is_left and held in _held and time.monotonic() < deadline:
        time.sleep(_LOOK_EVERY_S)
    if held.is_left:
        held.shut_down()


def kill_own_ray() -> None:
    """End all processes of the Ray that this process started, at once; one that it is attached to is left alone."""
    mine: list[psutil.Process] = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            command = " ".join(child.cmdline()) or child.name()
            if any(sign in command for sign in ("ray::", "/ray/", "raylet", "gcs_server")):
                mine.append(child)
    for process in mine:
        with suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(mine, timeout=1.0)


@contextmanager
def session(address: str | None) -> Generator[bool]:
    """Ray is up inside: a cluster at `address`, the one this process is attached to, or one of our own.

    Tells whether it is our own, which ends with this. Raises InfrastructureError when Ray cannot be started or reached.
    """
    probe_cluster(address)
    load()
    import ray

    for one in list(_held):
        _await_end(one)
    started = not ray.is_initialized()
    held = _Held(started, started and address is None)
    _held.append(held)
    try:
        if started:
            _start(address)
        _settle_data_context()
        yield held.is_own
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise
    finally:
        held.shut_down()


_errors: list[int] = []
"""Standard error, while it is silent."""


@contextmanager
def _without_banner() -> Generator[None]:
    """Ray's native library prints one line about its log level to standard error when it loads."""
    saved, silent = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    _errors.append(saved)
    os.dup2(silent, 2)
    try:
        yield
    finally:
        _errors.remove(saved)
        os.dup2(saved, 2)
        os.close(saved)
        os.close(silent)


def _start(address: str | None) -> None:
    import ray
    from ray.exceptions import RayError

    own: dict[str, Any] = {} if address else {"object_store_memory": _SMALL_STORE_BYTES, "include_dashboard": False}
    try:
        with _without_banner():
            ray.init(address=address or "local", logging_level=logging.CRITICAL, log_to_driver=False, **own)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError, RayError) as error:
        raise InfrastructureError(explain_failure(address, error)) from None


def _settle_data_context() -> None:
    import ray.data
    from ray.data.context import ShuffleStrategy

    for name in ("ray.data", "ray"):
        # What ends a run is raised and told by us; Ray would print its own traceback before.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    # A hash shuffle starts actors of its own: 14 s for a few rows and 35 s for 512,000 where this takes 3 and 24.
    context.shuffle_strategy = ShuffleStrategy.SORT_SHUFFLE_PULL_BASED
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = _BLOCK_BYTES
    context.execution_options.preserve_order = False
    context.execution_options.verbose_progress = False
    for name in ("execution_no_progress_timeout_s",):
        if hasattr(context, name):
            setattr(context, name, -1)
