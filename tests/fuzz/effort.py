"""How long is searched: a few examples in every run of the tests, many with `-m full`."""

from __future__ import annotations

import faulthandler
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings

BOUND_S = 90.0
"""No run of a few rows takes so long, on a busy machine either."""

EFFORT = pytest.mark.parametrize(
    "effort",
    [pytest.param(1, id="short"), pytest.param(100, id="long", marks=[pytest.mark.full, pytest.mark.timeout(0)])],
)


def explore(check: Callable[..., None], examples: int, effort: int) -> None:
    """Try `check`, a function with `@given`, on so many examples: always the same, or others each time."""
    settings(
        max_examples=examples * effort,
        derandomize=effort == 1,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=True,
    )(check)()


def bounded(work: Callable[[], Any], bound_s: float = BOUND_S) -> Any:
    """What `work` returns or raises; AssertionError where it does not end in time."""
    found: dict[str, Any] = {}

    def run() -> None:
        try:
            found["value"] = work()
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            found["error"] = error

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(bound_s)
    if thread.is_alive():
        faulthandler.dump_traceback(sys.stderr)
        raise AssertionError(f"no end within {bound_s:.0f} s")
    error = found.get("error")
    if error is not None and not isinstance(error, Exception):
        raise AssertionError(f"what is no error left the run: {error!r}") from error
    if error is not None:
        raise error
    return found.get("value")
