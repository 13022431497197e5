"""Makes rows of the answers that a row was given: labelled, scattered, grouped, with what is kept of its calls.

Knows nothing of how the answers came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from raypipe.contracts.step import Output
from raypipe.graph.branching import merged_metadata
from raypipe.row import METADATA, MODEL_NAME, Values
from raypipe.steps.llm.recording_caller import RawCapture, RecordingCaller

Answer = dict[str, Any] | list[dict[str, Any]]
"""The columns of one answer, or the rows that it stands for."""


class RowProgram(NamedTuple):
    """What becomes of the answers to a row; worked out once for all rows of a step."""

    sends_schema: bool
    """The model is sent the schema that its answer is checked by."""
    is_plain: bool
    """There is one answer, and its columns are all that is wanted."""
    makes_rows: bool
    """A row becomes several."""
    lists: tuple[str, ...] | None
    """With scatter: the columns of an answer that are taken apart together, a row for each of their items."""
    grouped: tuple[str, ...] | None
    """With several answers in one row: the columns that become lists."""
    adds_label: bool
    """The label of the model that answered is a column."""
    capture: RawCapture | None
    """What is kept of the calls as they were."""
    nulls: tuple[str, ...]
    """With `capture`: columns that are null in a row that cannot pass and goes on; none where it fails."""

    def rows(self, row: Values, answers: Sequence[Answer], callers: Sequence[RecordingCaller]) -> Output:
        """What the answers that each of `callers` got for `row` become."""
        made: list[dict[str, Any]] = []
        for answer, caller in zip(answers, callers, strict=True):
            kept = self._kept(row, caller)
            if isinstance(answer, list):
                made += [columns | kept for columns in answer]
            elif self.lists is None:
                made.append(answer | kept)
            else:
                items = zip(*(answer[name] for name in self.lists), strict=True)
                made += [{**answer, **dict(zip(self.lists, one, strict=True)), **kept} for one in items]
        if self.grouped is not None:
            labels = {MODEL_NAME: " | ".join(dict.fromkeys(one.label for one in callers))} if self.adds_label else {}
            made = [{name: [columns[name] for columns in made] for name in self.grouped} | labels]
        return made if self.makes_rows else made[0]

    def null_row(self, row: Values, callers: Sequence[RecordingCaller]) -> Output:
        """What a row that cannot pass goes on with: nulls, and what was kept of its calls."""
        kept = [self._kept(row, caller)[METADATA] for caller in callers]
        made = {**dict.fromkeys(self.nulls), METADATA: kept[0] if self.grouped is None else kept}
        return [made] if self.makes_rows else made

    def _kept(self, row: Values, caller: RecordingCaller) -> dict[str, Any]:
        """The columns that say of a call what was sent, what came back, and who answered."""
        kept: dict[str, Any] = {}
        if self.capture is not None:
            step, keeps_output, keeps_input = self.capture
            raw: dict[str, Any] = {f"raw_input_{step}": caller.messages} if keeps_input else {}
            raw |= {f"raw_output_{step}": caller.text} if keeps_output else {}
            kept[METADATA] = merged_metadata(row.get(METADATA), raw)
        if self.adds_label:
            kept[MODEL_NAME] = caller.label
        return kept
