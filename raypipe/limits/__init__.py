"""Decides when a call may be sent: rates, concurrency, budget, and how long one call is tried.

A `RateCoordinator` knows the whole run and grants permits in bulk; every worker has a `Limiter` that asks it. Knows
nothing of what is sent.
"""

from __future__ import annotations

from raypipe.limits.coordinator import RateCoordinator
from raypipe.limits.lease_client import LeaseSource
from raypipe.limits.life import LedgerPlace
from raypipe.limits.limiter import Limiter, enter_first
from raypipe.limits.messages import REFUSED, Caps, Cost, Lease, Report, Settlement, Spent
from raypipe.limits.retry import LONGEST_WAIT_S, RetryPolicy

__all__ = [
    "LONGEST_WAIT_S",
    "REFUSED",
    "Caps",
    "Cost",
    "Lease",
    "LeaseSource",
    "LedgerPlace",
    "Limiter",
    "RateCoordinator",
    "Report",
    "RetryPolicy",
    "Settlement",
    "Spent",
    "enter_first",
]
