"""I run a plan on Ray; no other module knows that Ray exists.

Ray decides where, we decide when: pools are plain actors that never restart by themselves, Ray Data
reads, carries batches to the conductors and groups between stages, and nothing of ours raises inside it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raypipe.execution.batches import BatchResult
    from raypipe.execution.setup import RunSetup, Watch

__all__ = ["execute"]


def execute(setup: RunSetup, watch: Watch) -> list[BatchResult]:
    """Run all stages on the Ray that is up. Raises RaypipeError when the run cannot go on."""
    # Ray reads its environment as it is imported, so `session` has to come first.
    from raypipe.execution.ray.driver import execute as drive

    return drive(setup, watch)
