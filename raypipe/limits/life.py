"""Writes down what one coordinator of a run spends, and keeps it under the caps together with all others over a log.

Before calls leave, what they take at most is covered: the ledger says that this life will have spent so much. A little
more than is needed is covered at once, as much as leaves in a moment, so that a line is written a few times a second
and not for each call. Knows nothing of workers.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from uuid import uuid4

from raypipe.limits.account import sum_costs
from raypipe.limits.ledger import Book, Life, is_gone, life_line, most_line, this_process
from raypipe.limits.ledger_store import LedgerStore, ledger_at
from raypipe.limits.messages import NOTHING, Caps, Cost, Spent
from raypipe.storage.paths import AnyPath

_NOTE_EVERY_S, _NOTE_SLOWLY_EVERY_S = 0.25, 2.0
_OFTEN_S, _OFTEN_SLOWLY_S, _MOST_AHEAD = 0.01, 0.25, 512
"""Calls are covered ahead, up to so many, where it has to be done so often: a run that is killed did it in vain."""
_BEAT_EVERY_S, _SILENT_S = 5.0, 20.0
"""A life writes at least so often; of one on another machine that does not, nothing comes back any more."""


@dataclass(frozen=True, slots=True)
class LedgerPlace:
    """Where the ledger of a run is, and which run it is; plain data that travels to whoever keeps the limits."""

    calls: AnyPath
    leg: str

    def open(self) -> LifeLedger:
        """A new life of the run. Raises OutputError."""
        return LifeLedger(ledger_at(self.calls), self.leg)


@dataclass(frozen=True, slots=True)
class Others:
    """What all other lives over the log took."""

    gone: Cost = NOTHING
    """What they have spent, or may have before they were killed."""
    most: Cost = NOTHING
    """The same with what lives that go on may spend next."""
    lost: Cost = NOTHING
    """Of `gone`, what nobody knows: it was in flight when a run was killed."""


class LifeLedger:
    """One life in a ledger. `clock` gives seconds that never go back."""

    def __init__(self, store: LedgerStore, leg: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Raises OutputError when the ledger cannot be written."""
        self.is_slow = store.is_slow
        self._store, self._clock = store, clock
        self._life = Life(uuid4().hex[:16], leg, this_process(), time.time())
        self._seen: dict[str, tuple[Life, float]] = {}
        """Lives that go on, as they stood when they had last written, and when that was seen."""
        self.others = Others()
        self._noted_at, self._covered_at = clock(), float("-inf")
        self._ahead = 0
        self._ended: set[str] = set()
        """Lives that have ended, and what they spent together."""
        self._ended_cost = NOTHING
        self._write(lambda book: life_line(self._life))

    @property
    def covered(self) -> Cost:
        """The most that this life may have spent and have in flight."""
        return self._life.most

    def cover(self, wanted: Cost, need: Cost, caps: Caps) -> None:
        """Cover so much, or as much of it as there is room for under the caps. Raises OutputError.

        `need`: what one call takes.
        """
        self._look_ahead()
        ahead = self._ahead
        more_than_wanted = Cost(
            wanted.calls + ahead * need.calls,
            wanted.input_tokens + ahead * need.input_tokens,
            wanted.output_tokens + ahead * need.output_tokens,
            wanted.usd + ahead * need.usd,
        )

        def more(book: Book) -> bytes:
            self._look(book)
            most = _within(more_than_wanted, caps, self.others.most)
            self._life = replace(self._life, most=most, at=time.time())
            written = book.lives.get(self._life.id)
            return b"" if written is not None and most == written.most else most_line(self._life)

        self._write(more)

    def _look_ahead(self) -> None:
        """Cover more calls at once where it has to be done often, and fewer where that was more than needed."""
        now, often_s = self._clock(), _OFTEN_SLOWLY_S if self.is_slow else _OFTEN_S
        passed_s, self._covered_at = now - self._covered_at, now
        if passed_s < often_s:
            self._ahead = min(max(1, 2 * self._ahead), _MOST_AHEAD)
        elif passed_s > 4 * often_s:
            self._ahead //= 2

    def note(self, spent: Callable[[], tuple[Spent, ...]], most: Cost) -> None:
        """Write down what was spent, where that is due. `most`: that, and what is in flight. Raises OutputError."""
        now = self._clock()
        if now - self._noted_at < (_NOTE_SLOWLY_EVERY_S if self.is_slow else _NOTE_EVERY_S):
            return
        entries = spent()
        if (entries, most) == (self._life.spent, self._life.most) and now - self._noted_at < _BEAT_EVERY_S:
            return
        self._noted_at = now
        self._life = replace(self._life, spent=entries, most=most, at=time.time())
        self._write(lambda book: life_line(self._life))

    def close(self, spent: tuple[Spent, ...]) -> None:
        """This life has spent so much and will spend nothing more. Raises OutputError."""
        ended = replace(self._life, spent=spent, most=sum_costs(spent), at=time.time(), has_ended=True)
        self._life = ended
        self._write(lambda book: life_line(ended))

    def _write(self, change: Callable[[Book], bytes]) -> None:
        self._look(self._store.update(change))

    def _look(self, book: Book) -> None:
        """What the others took, as it stands now."""
        for life in book.lives.values():
            if life.has_ended and life.id not in self._ended and life.id != self._life.id:
                self._ended.add(life.id)
                self._ended_cost += life.cost
        gone, lost = self._ended_cost, NOTHING
        most = gone
        for life in book.lives.values():
            if life.id == self._life.id or life.has_ended:
                continue
            cost, unknown = life.cost, life.unknown
            most += cost + unknown
            if unknown != NOTHING and self._is_gone(life):
                gone, lost = gone + cost + unknown, lost + unknown
            else:
                gone += cost
        self.others = Others(gone, most, lost)

    def _is_gone(self, life: Life) -> bool:
        seen, now = self._seen.get(life.id), self._clock()
        if seen is None or seen[0] != life:
            self._seen[life.id] = life, now
            return is_gone(life.process)
        return now - seen[1] > _SILENT_S or is_gone(life.process)


def _within(wanted: Cost, caps: Caps, others: Cost) -> Cost:
    """The most of it that there is room for."""
    calls, read, written, usd = wanted.calls, wanted.input_tokens, wanted.output_tokens, wanted.usd
    if caps.calls is not None:
        calls = max(0, min(calls, caps.calls - others.calls))
    if caps.tokens is not None:
        room = max(0, caps.tokens - others.tokens)
        if read + written > room:  # what counts is the sum
            read = min(read, room)
            written = room - read
    if caps.usd is not None:
        usd = max(0.0, min(usd, caps.usd - others.usd))
    return Cost(calls, read, written, usd)
