"""What one run is: the options it was started with, and the places and servers that belong to it.

Plain data, frozen, and carried whole to every worker. Holds no rows and starts nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from raypipe.calls.segments import CallOrigin
from raypipe.concurrency.deadlines import LOOK_EVERY_S
from raypipe.execution.row_identity import VERSION
from raypipe.limits import Caps, LedgerPlace
from raypipe.plan.load_groups import LoadGroups
from raypipe.storage.artifacts import ARTIFACTS
from raypipe.storage.paths import AnyPath
from raypipe.values.byte_bounds import Bounds, read_bounds

Engine = Literal["ray", "local"]
MAX_FAILURE_RATE = 0.5


@dataclass(frozen=True)
class RunOptions:
    """How a plan is run."""

    out: AnyPath
    calls: AnyPath | None = None
    """Folder of the call log; by default inside `out`."""
    engine: Engine = "ray"
    address: str | None = None
    """Ray cluster; by default the one that RAY_ADDRESS names, else a new one on this machine."""
    fresh: bool = False
    """Forget the calls made before."""
    max_failed_rows: int = 0
    max_failure_rate: float | None = MAX_FAILURE_RATE
    """The run stops when such a share of a step's last 200 rows, or its first 20, failed for one kind of reason."""
    ask_again: bool = False
    """Refusals of earlier runs are asked for again."""
    allow_fewer: bool = False
    """Let fewer rows take the place of more though rows failed, or none came out."""
    source_rows: int | None = None
    """Read only this many rows of each source."""
    origin: Mapping[str, Any] | None = None
    """The command line that the plan comes from, kept in the manifest for `raypipe retry`."""
    caps: Caps = field(default_factory=Caps)
    """The most that all runs into `out` may spend."""
    load_groups: LoadGroups = ()
    """Steps that are loaded together, one group after the other; empty: as many as there is room for."""
    is_dry_run: bool = False
    """Searches and other requests of tools are played instead of sent."""
    bounds: Bounds = field(default_factory=read_bounds)
    """Bytes of rows that travel together, wait, and stand in one file."""
    look_every_s: float = LOOK_EVERY_S
    """How often the run looks whether its workers live: seven looks without a sign of life are a frozen worker,
    eight without a report a frozen conductor."""
    env: tuple[str, ...] = ()
    """Environment variables that every node of a cluster must have, beside those that hold the keys of models."""
    is_shared: bool = False
    """The umask decides who may read what the run writes; by default its owner alone."""

    @property
    def cluster(self) -> str | None:
        """The Ray cluster to attach to; `None`: start one."""
        return (self.address or os.environ.get("RAY_ADDRESS") or None) if self.engine == "ray" else None


@dataclass(frozen=True)
class RunContext:
    """What every part of one run knows of it."""

    options: RunOptions
    parts: AnyPath
    """Folder for part files."""
    calls: AnyPath
    """Folder of the call log."""
    owner: str
    """Stands for the run folder in the names of call log segments."""
    identity: int = VERSION
    """How rows and calls are identified: in a call log that version 0.1.0 has begun, as it did."""
    servers: Mapping[str, str] = field(default_factory=dict[str, str])
    """Addresses of the servers that were started for models, by their keys."""
    ledger: LedgerPlace | None = None
    """Where what is spent is written down; `None` for what spends nothing."""
    unsent: Callable[[CallOrigin], None] | None = None
    """Called for each call instead of sending it, in this process only; stages after unfinished rows are skipped."""

    @property
    def artifacts(self) -> AnyPath:
        """Where steps keep files beside their rows, until they are committed."""
        return self.parts.with_name(ARTIFACTS)
