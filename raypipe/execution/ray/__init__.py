"""I run a plan on Ray; no other module knows that Ray exists.

Ray decides where, we decide when: pools are plain actors that never restart by themselves, Ray Data
reads, carries batches to the conductors and groups between stages, and nothing of ours raises inside it.
"""

from __future__ import annotations

from raypipe.execution.ray.driver import execute

__all__ = ["execute"]
