"""Keeps a run under its caps: the worst case is reserved before a call is sent, what it took is settled after.

A reservation belongs to a worker: what that worker reports to hold, and what it was granted since that report. It ends
with the worker's next report, with its last one, with another worker that takes its place, or with its silence, so that
no reservation is left behind. Calls that do not fit wait only while some worker, of this run or of another over the
same call log, holds a reservation. What is reserved and what was spent stands in the ledger of the call log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raypipe.limits.account import Account, estimate, sum_costs
from raypipe.limits.life import LifeLedger, Others
from raypipe.limits.messages import NOTHING, Caps, Cost, Report, Spent

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
    accounts: tuple[Spent, ...] = ()
    spent: Cost = NOTHING

    @property
    def reserved(self) -> Cost:
        return self.held + self.granted


class Budget:
    """Money, tokens and calls of one run. Without `ledger` nothing is known of other runs, and nothing is kept."""

    def __init__(self, caps: Caps, ledger: LifeLedger | None = None) -> None:
        self._caps, self._ledger = caps, ledger
        self._workers: dict[str, _WorkerBudget] = {}
        self._ended: set[str] = set()
        """Lives whose last report has come."""
        self._closed_accounts = Account()
        self._closed = self.spent = NOTHING
        self._held = self._reserved = NOTHING
        self._lost = NOTHING
        """What workers hold that are silent; it counts as spent."""
        self.exhausted = ""
        """Why no call will ever be sent again; empty while one may be."""

    @property
    def is_slow(self) -> bool:
        """Whether `cover` and `note` may take long."""
        return self._ledger is not None and self._ledger.is_slow

    def cover(self, needs: Sequence[Cost]) -> None:
        """See to it that the ledger knows of calls that take so much before they are reserved. Raises OutputError."""
        ledger = self._ledger
        if ledger is None or not needs or not self._caps:
            return
        wanted = sum(needs, self.spent + self._reserved)
        if not _fits(wanted, ledger.covered):
            ledger.cover(wanted, needs[0], self._caps)

    def reserve(self, client: str, need: Cost) -> bool:
        """Whether a call that takes at most `need` may be sent; if so, `need` is reserved.

        If not, `exhausted` says whether it may be once others have ended. `client` has reported before.
        """
        ledger = self._ledger
        others = Others() if ledger is None else ledger.others
        gone = need + self.spent + others.gone
        lacks = self._lacks(gone)
        if not lacks and self._lacks(gone + self._held) == "calls":
            lacks = "calls"  # each of those that are in flight is one of them, whatever comes of it
        if lacks:
            self.exhausted = self._exhausted_by(lacks, need, others)
            return False
        wanted = need + self.spent + self._reserved
        if self._lacks(wanted + others.most) or (ledger is not None and not _fits(wanted, ledger.covered)):
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
        worker.held, worker.granted = report.held, NOTHING
        worker.accounts, worker.spent = report.accounts, sum_costs(report.accounts)
        if report.is_last:
            self._close(self._workers.pop(report.client))
        self._add_up(now)
        return True

    def note(self) -> None:
        """Write down what was spent so far, where that is due. Raises OutputError."""
        if self._ledger is not None:
            self._ledger.note(self.accounts, self.spent + self._reserved)

    def close(self) -> None:
        """Write down what was spent, for the last time: what workers still hold counts as spent. Raises OutputError."""
        if self._ledger is not None:
            for client in list(self._workers):
                self._close(self._workers.pop(client))
            self._ledger.close(self.accounts())

    def accounts(self) -> tuple[Spent, ...]:
        """What was spent, by step and model; what silent workers hold is estimated."""
        account = Account(self._closed_accounts.entries)
        for worker in self._workers.values():
            for entry in worker.accounts:
                account.add(entry)
        if self._lost != NOTHING:
            account.add(estimate(self._lost))
        return account.entries

    def _close(self, worker: _WorkerBudget) -> None:
        self._ended.add(worker.life)
        self._closed += worker.spent + worker.reserved
        for entry in worker.accounts:
            self._closed_accounts.add(entry)
        if worker.reserved != NOTHING:
            self._closed_accounts.add(estimate(worker.reserved))

    def _add_up(self, now: float) -> None:
        self.spent, self._held, self._reserved, self._lost = self._closed, NOTHING, NOTHING, NOTHING
        for worker in self._workers.values():
            self.spent += worker.spent
            if now - worker.reported_at > SILENT_S:
                self._lost += worker.reserved
            else:
                self._held += worker.held
                self._reserved += worker.reserved
        self.spent += self._lost

    def _lacks(self, wanted: Cost) -> str:
        caps = self._caps
        if caps.calls is not None and wanted.calls > caps.calls:
            return "calls"
        if caps.tokens is not None and wanted.tokens > caps.tokens:
            return "tokens"
        return "usd" if caps.usd is not None and wanted.usd > caps.usd else ""

    def _exhausted_by(self, what: str, need: Cost, others: Others) -> str:
        caps, spent, lost = self._caps, self.spent + others.gone, ""
        if others.lost.calls:
            lost = f"; {others.lost.calls:,} calls in flight when a run was killed count at the most they can take"
        if what == "calls":
            return f"max_calls={caps.calls} is reached{lost}"
        if what == "tokens":
            left = (caps.tokens or 0) - spent.tokens
            return f"max_tokens={caps.tokens} is reached ({left:,} left, the next call may take {need.tokens:,}{lost})"
        left = (caps.usd or 0.0) - spent.usd
        return f"max_cost_usd={caps.usd:g} is reached (${left:.4f} left, the next call may cost ${need.usd:.4f}{lost})"


_ROUNDING_USD = 1e-9


def _fits(wanted: Cost, covered: Cost) -> bool:
    """Tokens are covered together: a cap counts them so."""
    is_covered = wanted.calls <= covered.calls and wanted.tokens <= covered.tokens
    return is_covered and wanted.usd <= covered.usd + _ROUNDING_USD
