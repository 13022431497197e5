"""Waits for a store that cannot be reached, or says that it cannot answer, for as long as that may pass.

Knows nothing of what is asked of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from raypipe.concurrency.interruption import pause

T = TypeVar("T")

LONGEST_OUTAGE_S = 60.0
"""How long a request is sent again before its error counts."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 4.0
_PASSING = (
    *("NETWORK_CONNECTION", "SLOW_DOWN", "INTERNAL_FAILURE", "SERVICE_UNAVAILABLE", "REQUEST_TIMEOUT", "curlCode"),
    *("HTTP status 500", "HTTP status 502", "HTTP status 503", "HTTP status 504", "status code: 5", "error sending"),
)
"""What the messages of the clients of stores have in them where the same request may pass later."""


def outlasting(work: Callable[[], T], what: object) -> T:
    """What `work` returns, done again while the store of `what` is out of order, which is said. Raises OSError."""
    deadline, wait_s = time.monotonic() + LONGEST_OUTAGE_S, _FIRST_PAUSE_S
    while True:
        try:
            return work()
        except OSError as error:
            if not any(sign in str(error) for sign in _PASSING) or time.monotonic() > deadline:
                raise
        if wait_s == _FIRST_PAUSE_S:
            said = "the store of %s does not answer as it should; waiting for it, up to %.0f s"
            logging.getLogger("raypipe").warning(said, what, LONGEST_OUTAGE_S)
        pause(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_PAUSE_S)
