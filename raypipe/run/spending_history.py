"""Keeps account of what runs into one folder have spent so far, whatever ended them.

Completions are counted from the call log, which has every one of them; calls that got no answer stand
in a note that each run leaves. With a call log outside the folder, which others may share, all is taken
from the note.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import orjson

from raypipe.calls.compacted_file import compacted_files, read_calls
from raypipe.contracts.llm import TOOL
from raypipe.contracts.model_pool import members_of
from raypipe.limits import Cost
from raypipe.models.prices import cost_usd
from raypipe.plan.plan import Plan
from raypipe.storage.paths import AnyPath, write_atomically
from raypipe.storage.remote_run_folder import AnyRunFolder

_SUMMED = ("calls_sent", "input_tokens", "output_tokens")
_COLUMNS = ["step", "model", "input_tokens", "output_tokens"]


class Spending:
    """Of the runs into one folder. The call log must be compacted."""

    def __init__(self, folder: AnyRunFolder, calls: AnyPath, plan: Plan) -> None:
        self._calls = calls if calls == folder.calls.absolute() else None
        self._note = folder.own / "spent.json"
        self._plan = plan

    def before(self, fresh: bool) -> Cost:
        """What earlier runs took; with `fresh`, nothing."""
        if fresh:
            self._note.unlink(missing_ok=True)
            return Cost()
        noted = self._noted()
        if self._calls is None:
            return Cost(**noted["all"])
        return self._logged() + Cost(noted["unanswered"])

    def note(self, manifest: dict[str, Any]) -> None:
        """A run ended: add what it took."""
        noted = self._noted()
        models = list(manifest["models"].values())
        usd = sum(model["cost_usd"] or 0.0 for model in models)
        calls, asked, written = (sum(model[name] for model in models) for name in _SUMMED)
        total = Cost(**noted["all"]) + Cost(calls, asked, written, usd)
        unanswered = noted["unanswered"] + sum(model["calls_unanswered"] for model in models)
        fields = {"calls": total.calls, "input_tokens": total.input_tokens, "output_tokens": total.output_tokens}
        write_atomically(self._note, orjson.dumps({"all": fields | {"usd": total.usd}, "unanswered": unanswered}))

    def _noted(self) -> dict[str, Any]:
        """What is noted; nothing where the note is not as a run writes it."""
        try:
            noted: Any = orjson.loads(self._note.read_bytes())
            return {"all": asdict(Cost(**noted["all"]) + Cost()), "unanswered": 0 + noted["unanswered"]}
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return {"all": {}, "unanswered": 0}

    def _logged(self) -> Cost:
        total = Cost()
        for table in read_calls(compacted_files(self._calls), _COLUMNS) if self._calls is not None else ():
            sums = table.group_by(["step", "model"]).aggregate(
                [("input_tokens", "sum"), ("output_tokens", "sum"), ("step", "count")]
            )
            for row in sums.to_pylist():
                if not str(row["model"]).startswith(TOOL):
                    total += self._amount(row)
        return total

    def _amount(self, row: dict[str, Any]) -> Cost:
        step = self._plan.graph.steps.get(row["step"])
        tokens = row["input_tokens_sum"] or 0, row["output_tokens_sum"] or 0
        members = members_of(step.llm) if step is not None else ()
        # What a provider calls its model may not be what it was asked as: then the dearest is taken.
        named = [llm for llm in members if llm.model == row["model"]]
        usd = max((cost_usd(llm, *tokens) or 0.0 for llm in named or members), default=0.0)
        return Cost(row["step_count"], *tokens, usd)
