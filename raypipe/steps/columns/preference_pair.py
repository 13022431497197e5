"""I make preference pairs: the better of a row's responses, and the worse.

I do not know who scored them. Columns that a preference dataset has no use for are dropped by a
`KeepColumns` behind me.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Self, cast

from pydantic import Field, model_validator

from raypipe.contracts.step import Output, Runs, Shape, Step
from raypipe.errors import RowError
from raypipe.row import Values


class PreferencePair(Step):
    """Writes `prompt`, `chosen`, `rejected`, `scores`, `chosen_score` and `rejected_score`.

    The response with the highest score is chosen, the one with the lowest rejected. A row whose responses are
    equally good, or the same text, is no preference: it is dropped, unless `ties="first"` prefers the response that
    is named first. The same text twice is always dropped.
    """

    runs: ClassVar[Runs] = Runs.THREAD

    prompt: str = "question"
    """Column with what was asked."""
    responses: list[str] = Field(default=["response_a", "response_b"], min_length=2)
    """Columns with the responses."""
    scores: list[str] = Field(default=["scores_a", "scores_b"], min_length=2)
    """For each response a column with a number, or a mapping of aspects to numbers."""
    weights: dict[str, float] | None = None
    """What each aspect counts; by default every aspect counts 1. Aspects that are not named count nothing."""
    ties: Literal["drop", "first"] = "drop"

    @model_validator(mode="after")
    def _is_paired(self) -> Self:
        if len(self.responses) != len(self.scores):
            raise ValueError(f"{len(self.responses)} responses need as many scores, got {len(self.scores)}")
        return self

    @property
    def shape(self) -> Shape:
        return Shape.FILTER

    def reads(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((self.prompt, *self.responses, *self.scores)))

    def writes(self) -> dict[str, str]:
        taken = {"prompt": "", "chosen": "", "rejected": "", "scores": ""}
        return taken | {"chosen_score": "double", "rejected_score": "double"}

    def process_row_in_thread(self, row: Values) -> Output:
        totals = [self._total(name, row[name]) for name in self.scores]
        ranked = sorted(range(len(totals)), key=lambda index: -totals[index])
        best, worst = ranked[0], ranked[-1]
        chosen, rejected = row[self.responses[best]], row[self.responses[worst]]
        if chosen == rejected or (totals[best] == totals[worst] and self.ties == "drop"):
            return None
        return {
            "prompt": row[self.prompt],
            "chosen": chosen,
            "rejected": rejected,
            "scores": {"chosen": row[self.scores[best]], "rejected": row[self.scores[worst]]},
            "chosen_score": totals[best],
            "rejected_score": totals[worst],
        }

    def _total(self, column: str, score: Any) -> float:
        if not isinstance(score, Mapping):
            return _number(column, score)
        aspects = cast(Mapping[str, Any], score)
        weights = self.weights or dict.fromkeys(aspects, 1.0)
        if not weights:
            raise RowError(f"column {column!r} has no scores", kind="score")
        return sum(weight * _number(f"{column}.{name}", aspects.get(name)) for name, weight in weights.items())


def _number(place: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"column {place!r} is no number but {value!r}", kind="score")
    return float(value)
