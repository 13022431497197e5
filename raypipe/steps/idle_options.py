"""Warns once of an option that other programs' users give and that has nothing to change here."""

from __future__ import annotations

import logging
from functools import cache

_log = logging.getLogger("raypipe")


@cache
def warn_idle(owner: str, option: str, reason: str) -> None:
    """Warns, once in a process, that `option` of `owner` is accepted and changes nothing; `reason` says why."""
    _log.warning("%s: the option %r changes nothing here: %s", owner, option, reason)
