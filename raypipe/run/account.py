"""Puts into a manifest what all runs into the folder spent: each run, and totals by step and model.

Knows nothing of where the account is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from raypipe.contracts.model_pool import ModelPool, name_members
from raypipe.limits import Spent
from raypipe.limits.account import Account
from raypipe.limits.ledger import KILLED, Book, Leg
from raypipe.models.prices import cost_usd, known_cost_usd
from raypipe.plan.plan import Plan

_OTHER = "(other)"
"""Calls of which nobody knows the step: they were in flight when a run was killed, or their step is gone."""


class FolderAccount:
    """What all runs into one folder spent, as a manifest of `plan` tells it."""

    def __init__(self, plan: Plan, book: Book, legs: Sequence[Leg]) -> None:
        self._plan, self._legs = plan, legs
        self._only = _only_asker(plan)
        self._shown = {parts[-1]: title for title, parts in plan.graph.parts.items()}
        self._spent = {leg.id: [self._priced(entry) for entry in book.spent_by(leg)] for leg in legs}
        self._wrote_last = {leg.id: max((life.at for life in book.lives_of(leg)), default=leg.started) for leg in legs}

    def complete(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Totals in place of what one run spent, and `legs`, all runs."""
        total = [entry for spent in self._spent.values() for entry in spent]
        for name, figures in manifest["steps"].items():
            figures |= self._of_step(name, total)
        for name, figures in manifest["models"].items():
            figures |= self._of_model(name, total)
            if "members" in figures:
                self._complete_members(name, figures["members"], total)
        manifest["spent"] = self._sums(total) | {_OTHER: self._sums(self._others(total))}
        manifest["legs"] = [self._leg(leg) for leg in self._legs]
        return manifest

    def _leg(self, leg: Leg) -> dict[str, Any]:
        spent = self._spent[leg.id]
        ended = self._wrote_last[leg.id] if leg.ended is None else leg.ended
        caps = {"max_calls": leg.caps.calls, "max_tokens": leg.caps.tokens, "max_cost_usd": leg.caps.usd}
        asking = [title for name, title in self._shown.items() if self._plan.graph.steps[name].llm is not None]
        return {
            "started_at": leg.started,
            "ended_at": ended,
            "wall_s": round(ended - leg.started, 3),
            "engine": leg.engine,
            "ended": leg.why or KILLED,
            "caps": {name: cap for name, cap in caps.items() if cap is not None},
            **self._sums(spent),
            "steps": {title: self._of_step(title, spent) for title in asking},
        }

    def _priced(self, entry: Spent) -> Spent:
        """With the price that is known now, where none was then, and of the only step and model where there is one."""
        if not entry.step and self._only is not None:
            entry = entry._replace(step=self._only[0], model=self._only[1])
        step = self._plan.graph.steps.get(entry.step)
        if entry.usd or step is None or step.llm is None or not entry.input_tokens + entry.output_tokens:
            return entry
        llm = name_members(step.llm).get(entry.model)
        usd = None if llm is None else cost_usd(llm, entry.input_tokens, entry.output_tokens)
        return entry if not usd else entry._replace(usd=usd)

    def _of_step(self, title: str, spent: Iterable[Spent]) -> dict[str, Any]:
        mine = [entry for entry in spent if self._shown.get(entry.step) == title]
        return self._sums(mine)

    def _of_model(self, pool: str, spent: Iterable[Spent]) -> dict[str, Any]:
        return self._sums(self._by(pool, spent))

    def _by(self, pool: str, spent: Iterable[Spent]) -> list[Spent]:
        """What a pool's models took; one that the plan does not have any more is known by its name."""
        steps = self._plan.graph.steps
        if pool not in self._plan.pools:
            return [one for one in spent if one.model == pool and not self._is_asked(one)]
        llms = self._plan.pools[pool].llms
        return [one for one in spent if self._is_asked(one) and steps[one.step].llm in llms]

    def _is_asked(self, entry: Spent) -> bool:
        """Whether its step asks its model, as the plan stands."""
        step = self._plan.graph.steps.get(entry.step)
        return step is not None and step.llm is not None and entry.model in name_members(step.llm)

    def _others(self, spent: Iterable[Spent]) -> list[Spent]:
        return [entry for entry in spent if entry.step not in self._shown]

    def _complete_members(self, pool: str, members: Mapping[str, dict[str, Any]], spent: Iterable[Spent]) -> None:
        mine = self._by(pool, spent)
        for name, figures in members.items():
            figures |= self._sums([entry for entry in mine if entry.model == name])

    def _sums(self, spent: Sequence[Spent]) -> dict[str, Any]:
        account = Account(entry._replace(step="", model="") for entry in spent)
        sums = account.entries[0] if account.entries else Spent()
        return {
            "calls_sent": sums.calls,
            "calls_unanswered": sums.unanswered,
            "calls_estimated": sums.estimated,
            "input_tokens": sums.input_tokens,
            "output_tokens": sums.output_tokens,
            "cost_usd": sums.usd if all(map(self._is_priced, spent)) else None,
            "estimated_usd": sums.estimated_usd,
        }

    def _is_priced(self, entry: Spent) -> bool:
        """Whether the price of its model is known; of what nobody knows any more, what was written down counts."""
        step = self._plan.graph.steps.get(entry.step)
        if step is None or step.llm is None or not self._is_asked(entry):
            return True
        by_model = {entry.model: {}} if isinstance(step.llm, ModelPool) else {}
        return known_cost_usd(step.llm, 0.0, by_model) is not None


def _only_asker(plan: Plan) -> tuple[str, str] | None:
    """The step that asks and the model that it asks, where there is one of each."""
    asking = [(name, model) for name, step in plan.graph.steps.items() if step.llm for model in name_members(step.llm)]
    return asking[0] if len(asking) == 1 else None
