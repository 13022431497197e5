"""Runs a plan on Ray; no other module knows that Ray exists.

Ray decides where, raypipe decides when: pools are plain actors that never restart by themselves, Ray Data
reads, carries batches to the conductors and groups between stages, and no code of raypipe raises inside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raypipe.execution.setup import Outcome, RunSetup, Watch
    from raypipe.execution.stopping import Stop

__all__ = ["execute"]


def execute(setup: RunSetup, address: str | None, watch: Watch, stop: Stop) -> Outcome:
    """Run all stages on Ray. Raises RaypipeError when the run cannot go on."""
    from raypipe.execution.ray.access import probe_cluster
    from raypipe.execution.ray.session import load

    probe_cluster(address)
    load()
    from raypipe.execution.ray.driver import execute as drive

    return drive(setup, address, watch, stop)
