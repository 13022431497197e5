"""Keeps a run under its caps: the worst case is reserved before a call is sent, what it took is settled after.

A reservation belongs to a worker: what that worker reports to hold, and what it was granted since that report. It ends
with the worker's next report, with its last one, with another worker that takes its place, or with its silence, so that
no reservation is left behind. Calls that do not fit wait only while some worker holds a reservation.
"""

from __future__ import annotations

from dataclasses import dataclass

from raypipe.limits.messages import NOTHING, Caps, Cost, Report

SILENT_S = 60.0
"""A worker reports at least once a second. After so long a silence it may be gone, and what it holds counts as spent
until it reports again."""


@dataclass
class _WorkerBudget:
    """What is known of one life of a worker."""

    life: str
    number: int = -1
    reported_at: float = 0.0
    held: Cost = NOTHING
    granted: Cost = NOTHING
    """Since its last report."""
    spent: Cost = NOTHING

    @property
    def reserved(self) -> Cost:
        return self.held + self.granted


class Budget:
    """Money, tokens and calls of one run. `spent`: what runs into the same folder took before."""

    def __init__(self, caps: Caps, spent: Cost = NOTHING) -> None:
        self._caps = caps
        self._workers: dict[str, _WorkerBudget] = {}
        self._ended: set[str] = set()
        """Lives whose last report has come."""
        self._closed = spent
        self.spent = spent
        self._held = self._reserved = NOTHING
        self.exhausted = ""
        """Why no call will ever be sent again; empty while one may be."""

    def reserve(self, client: str, need: Cost) -> bool:
        """Whether a call that takes at most `need` may be sent; if so, `need` is reserved.

        If not, `exhausted` says whether it may be once others have ended. `client` has reported before.
        """
        lacks = self._lacks(need + self.spent)
        if not lacks and self._lacks(need + self.spent + self._held) == "calls":
            lacks = "calls"  # each of those that are in flight is one of them, whatever comes of it
        if lacks:
            self.exhausted = self._exhausted_by(lacks, need)
            return False
        if self._lacks(need + self.spent + self._reserved):
            return False
        self._workers[client].granted += need
        self._reserved += need
        return True

    def settle(self, report: Report, now: float) -> bool:
        """Take over what a worker reports to hold and to have spent; whether the report is its latest."""
        if report.life in self._ended:
            return False
        worker = self._workers.get(report.client)
        if worker is None or worker.life != report.life:
            if worker is not None:
                self._close(worker)
            worker = self._workers[report.client] = _WorkerBudget(report.life)
        if report.number < worker.number:
            return False
        worker.number, worker.reported_at = report.number, now
        worker.held, worker.granted, worker.spent = report.held, NOTHING, report.spent_so_far
        if report.is_last:
            self._close(self._workers.pop(report.client))
        self._add_up(now)
        return True

    def _close(self, worker: _WorkerBudget) -> None:
        self._ended.add(worker.life)
        self._closed += worker.spent + worker.reserved

    def _add_up(self, now: float) -> None:
        self.spent, self._held, self._reserved = self._closed, NOTHING, NOTHING
        for worker in self._workers.values():
            self.spent += worker.spent
            if now - worker.reported_at > SILENT_S:
                self.spent += worker.reserved
            else:
                self._held += worker.held
                self._reserved += worker.reserved

    def _lacks(self, wanted: Cost) -> str:
        caps = self._caps
        if caps.calls is not None and wanted.calls > caps.calls:
            return "calls"
        if caps.tokens is not None and wanted.tokens > caps.tokens:
            return "tokens"
        return "usd" if caps.usd is not None and wanted.usd > caps.usd else ""

    def _exhausted_by(self, what: str, need: Cost) -> str:
        caps, spent = self._caps, self.spent
        if what == "calls":
            return f"max_calls={caps.calls} is reached"
        if what == "tokens":
            left = (caps.tokens or 0) - spent.tokens
            return f"max_tokens={caps.tokens} is reached ({left:,} left, the next call may take {need.tokens:,})"
        left = (caps.usd or 0.0) - spent.usd
        return f"max_cost_usd={caps.usd:g} is reached (${left:.4f} left, the next call may cost ${need.usd:.4f})"
