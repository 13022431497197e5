"""Knows by which rules the rows and calls of a call log are identified, and keeps to them.

A log that raypipe 0.1.0 has begun goes on by its rules, so that nothing in it is paid again; every other one is marked
with the rules of this version when it is begun.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from raypipe.calls.remote import segments
from raypipe.errors import OutputError
from raypipe.execution.row_identity import FIRST_VERSION, VERSION
from raypipe.storage.paths import AnyPath, write_atomically

_MARK = "_identity.json"


def identity_version(calls: AnyPath, retried: Mapping[str, Any]) -> int:
    """The version of the rules for a run, which marks a new log with it. `retried`: the manifest whose rows it redoes.

    Raises OSError, and OutputError for a log of a later version of raypipe.
    """
    if retried:
        return int(retried.get("identity", FIRST_VERSION))
    version = read_identity_version(calls)
    if version == VERSION and not (calls / _MARK).exists():
        write_atomically(calls / _MARK, orjson.dumps({"version": VERSION}))
    return version


def read_identity_version(calls: AnyPath) -> int:
    """The version of the rules of a log, the newest of one that is empty. Raises OSError, OutputError."""
    try:
        version: Any = orjson.loads((calls / _MARK).read_bytes())["version"]
    except FileNotFoundError:
        has_calls = any(calls.glob("calls-*.parquet")) or bool(segments(calls, "*"))
        return FIRST_VERSION if has_calls else VERSION
    except (ValueError, KeyError, TypeError):
        version = None
    if version not in (FIRST_VERSION, VERSION):
        problem = f"says in {_MARK} that its calls are identified by version {version!r}, and this raypipe knows"
        hint = "use the raypipe that wrote it, or name another folder with --calls"
        raise OutputError(f"the call log {calls} {problem} {FIRST_VERSION} and {VERSION}; {hint}")
    return version
