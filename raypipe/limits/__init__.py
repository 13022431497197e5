"""Decides when a call may be sent: rates, concurrency, budget, and how long one call is tried.

An `Authority` knows the whole run and grants permits in bulk; every worker has a `Limiter` that asks it. Nobody
here knows what is sent, nor what an error means.
"""

from __future__ import annotations

from raypipe.limits.amounts import Amount, Caps, Lease, Report
from raypipe.limits.coordinator import Authority
from raypipe.limits.limiter import Limiter, enter_first
from raypipe.limits.retry import LONGEST_WAIT_S, Patience

__all__ = ["LONGEST_WAIT_S", "Amount", "Authority", "Caps", "Lease", "Limiter", "Patience", "Report", "enter_first"]
