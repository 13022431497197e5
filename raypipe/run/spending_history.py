"""Keeps the account of a run folder in the ledger of its call log: each run into it, and what all of them spent.

What runs of version 0.1.0 spent, which had no ledger, is its beginning: completions are counted from the call log, and
calls that got no answer stand in a note that each run left. With a call log outside the folder, which others may have
shared, all is taken from the note. What runs into the folder spent with another call log is copied from its ledger.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from uuid import uuid4

import orjson

from raypipe.calls.compacted_file import compacted_files, read_calls
from raypipe.contracts.llm import TOOL
from raypipe.contracts.model_pool import name_members
from raypipe.errors import OutputError, shorten
from raypipe.execution.context import RunOptions
from raypipe.limits import Caps, LedgerPlace, Spent
from raypipe.limits.account import sum_costs
from raypipe.limits.ledger import Book, Leg, Life, leg_line, life_line
from raypipe.limits.ledger_store import ledger_at
from raypipe.models.prices import cost_usd
from raypipe.plan.plan import Plan
from raypipe.storage.paths import AnyPath, parse_path, write_atomically
from raypipe.storage.remote_run_folder import AnyRunFolder, run_folder_at

COMPLETE = "complete"
_COLUMNS = ["step", "model", "input_tokens", "output_tokens"]
_NOBODY = ("", 0, 0.0)
BEFORE = "before the ledger: runs of version 0.1.0"


def last_terms(options: RunOptions) -> tuple[Caps, Mapping[str, tuple[float, float]]]:
    """The caps and prices, by model, of the last run into the folder, where a ledger knows it. Raises OutputError."""
    folder = run_folder_at(options.out)
    folder.check()
    store = ledger_at((options.calls or folder.calls).absolute())
    legs = store.update(lambda book: b"").legs_of(folder.owner) if store.exists() else []
    return (legs[-1].caps, legs[-1].prices) if legs else (Caps(), {})


def describe_caps(caps: Caps) -> str:
    """In the words in which they are given."""
    usd = None if caps.usd is None else f"{caps.usd:g}"
    given = {"max_calls": caps.calls, "max_tokens": caps.tokens, "max_cost_usd": usd}
    return ", ".join(f"{name}={cap}" for name, cap in given.items() if cap is not None)


class Spending:
    """The runs into one folder. The call log must be compacted."""

    def __init__(self, folder: AnyRunFolder, calls: AnyPath, plan: Plan) -> None:
        self._folder, self._calls, self._plan = folder, calls, plan
        self._is_own = calls == folder.calls.absolute()
        self._note, self._places = folder.own / "spent.json", folder.own / "ledgers.json"
        self._store = ledger_at(calls)
        self._leg = Leg("", folder.owner)
        self.book = Book()

    @contextmanager
    def leg(self, options: RunOptions) -> Generator[LedgerPlace]:
        """One run, from here to the end of the block, or until `end` is called. Raises OutputError."""
        if options.fresh and self._is_own:
            self._note.unlink(missing_ok=True)
            self._places.unlink(missing_ok=True)
        places, before = self._other_places(), self._before()
        prices = {llm.label: llm.price for llm in self._plan.models if llm.price is not None}
        self._leg = Leg(uuid4().hex[:16], self._folder.owner, time.time(), options.engine, options.caps, prices)
        copied = before + b"".join(self._copied(place) for place in places) + leg_line(self._leg)
        self.book = self._store.update(lambda book: copied)
        if str(self._calls) not in places:
            write_atomically(self._places, orjson.dumps([*places, str(self._calls)]))
        try:
            yield LedgerPlace(self._calls, self._leg.id)
        finally:
            error = sys.exception()
            if self._leg.ended is None:
                self.end(f"{type(error).__name__}: {error}" if error is not None else COMPLETE)

    def end(self, why: str) -> None:
        """The run has ended: nothing is spent any more. Raises OutputError."""
        self._leg = replace(self._leg, ended=time.time(), why=shorten(why))
        self.book = self._store.update(lambda book: leg_line(self._leg))

    @property
    def legs(self) -> list[Leg]:
        """All runs into the folder, in the order in which they were begun."""
        return self.book.legs_of(self._folder.owner)

    def _other_places(self) -> list[str]:
        """The call logs that runs into the folder used."""
        try:
            found: Any = orjson.loads(self._places.read_bytes())
        except (FileNotFoundError, ValueError):
            found = None
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else []

    def _copied(self, place: str) -> bytes:
        """What stands of the folder in the ledger of another call log: the same lines, which may be copied twice."""
        path = parse_path(place)
        if path == self._calls or not (store := ledger_at(path)).exists():
            return b""
        try:
            book = store.update(lambda book: b"")
        except OutputError:  # it can only be read, or no more
            return b""
        legs = book.legs_of(self._folder.owner)
        return b"".join(leg_line(leg) + b"".join(map(life_line, book.lives_of(leg))) for leg in legs)

    # What runs of version 0.1.0 spent.

    def _before(self) -> bytes:
        """The beginning of a ledger: nothing where it has one."""
        id = f"before-{self._folder.owner}"
        if self._is_own and self._store.exists():
            return b""
        if not self._is_own and (not self._note.exists() or id in self._store.update(lambda book: b"").legs):
            return b""
        noted = self._noted()
        spent = [*self._logged(), Spent(calls=noted["unanswered"], unanswered=noted["unanswered"])]
        if not self._is_own:
            spent = [Spent(**noted["all"])]
        if not sum_costs(spent).calls:
            return b""
        manifest = self._folder.committed()
        began, ended = manifest.get("started_at", 0.0), manifest.get("ended_at", 0.0)
        leg = Leg(id, self._folder.owner, began, str(manifest.get("engine", "")), ended=ended, why=BEFORE)
        return leg_line(leg) + life_line(Life(id, id, _NOBODY, ended, tuple(spent), has_ended=True))

    def _noted(self) -> dict[str, Any]:
        """What is noted; nothing where the note is not as a run writes it."""
        try:
            noted: Any = orjson.loads(self._note.read_bytes())
            found = {name: 0 + noted["all"][name] for name in ("calls", "input_tokens", "output_tokens", "usd")}
            return {"all": found, "unanswered": 0 + noted["unanswered"]}
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return {"all": {}, "unanswered": 0}

    def _logged(self) -> Iterator[Spent]:
        """What the answers in the call log took, by step and model."""
        for table in read_calls(compacted_files(self._calls), _COLUMNS):
            sums = table.group_by(["step", "model"]).aggregate(
                [("input_tokens", "sum"), ("output_tokens", "sum"), ("step", "count")]
            )
            for row in sums.to_pylist():
                if not str(row["model"]).startswith(TOOL):
                    yield self._amount(row)

    def _amount(self, row: dict[str, Any]) -> Spent:
        step = self._plan.graph.steps.get(row["step"])
        tokens = row["input_tokens_sum"] or 0, row["output_tokens_sum"] or 0
        members = name_members(step.llm) if step is not None and step.llm is not None else {}
        # What a provider calls its model may not be what it was asked as: then the dearest is taken.
        named = {name: llm for name, llm in members.items() if llm.model == row["model"]} or members
        costs = {name: cost_usd(llm, *tokens) or 0.0 for name, llm in named.items()}
        name = max(costs, key=costs.__getitem__, default=str(row["model"]))
        return Spent(row["step"], name, row["step_count"], 0, 0, *tokens, costs.get(name, 0.0))
