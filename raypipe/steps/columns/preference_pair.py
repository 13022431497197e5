"""Makes preference pairs of the best and the worst of a row's responses.

Knows nothing of who scored them. A `KeepColumns` behind it drops what a preference dataset has no use for.
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

    The response with the highest score is chosen, the one with the lowest rejected. A row whose best and worst
    response are the same text is dropped. A row with a score that is not a number fails.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.FILTER
    reading_options: ClassVar[tuple[str, ...]] = ("prompt", "responses", "scores")
    written_columns: ClassVar[Mapping[str, str]] = {
        "prompt": "",
        "chosen": "",
        "rejected": "",
        "scores": "",
        "chosen_score": "double",
        "rejected_score": "double",
    }

    prompt: str = "question"
    """Column with what was asked."""
    responses: list[str] = Field(default=["response_a", "response_b"], min_length=2)
    """Columns with the responses."""
    scores: list[str] = Field(default=["scores_a", "scores_b"], min_length=2)
    """For each response a column with a number, or a mapping of aspects to numbers."""
    weights: dict[str, float] | None = None
    """Weight of each aspect; by default 1. With weights, aspects that are not named count nothing."""
    ties: Literal["drop", "first"] = "drop"
    """What becomes of equal scores: the row is dropped, or the response named first is chosen."""

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        if len(self.responses) != len(self.scores):
            raise ValueError(f"{len(self.responses)} responses need as many scores, got {len(self.scores)}")
        return self

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
        """The weighted sum of a response's scores. Raises RowError for what is no number."""
        if not isinstance(score, Mapping):
            return _number(column, score)
        aspects = cast(Mapping[str, Any], score)
        weights = self.weights or dict.fromkeys(aspects, 1.0)
        if not weights:
            raise RowError(f"column {column!r} has no scores", kind="score")
        return sum(weight * _number(f"{column}.{name}", aspects.get(name)) for name, weight in weights.items())


def _number(place: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"column {place!r} is not a number but {value!r}", kind="score")
    return float(value)
