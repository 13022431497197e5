"""Says how often a part of a pipeline is repeated for a row: until enough of what it makes is accepted.

Knows nothing of how rows travel. Whichever answers come first, the candidates that are made are the same: one more is
made only where those accepted and those on their way are fewer than wanted, so none is made in vain.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from raypipe.contracts.step import Runs, Shape, Step

if TYPE_CHECKING:
    import pyarrow as pa

CANDIDATE = "candidate"
"""Column that numbers the candidates of a row, from 0."""


class Candidates(Step):
    """Begins a part that is repeated: makes one candidate after the other of each row, up to its `Until`.

    `seed >> Candidates() >> generate >> judge >> Until(n_accepted=10, max_candidates=50, when="score >= 4")`. Each
    candidate is a child of the row, told apart by the column `candidate` (from 0).
    """

    runs: ClassVar[Runs] = Runs.TABLE
    output_shape: ClassVar[Shape] = Shape.SCATTER
    written_columns: ClassVar[Mapping[str, str]] = {CANDIDATE: "int64"}

    def problems(self) -> list[str]:
        if self.copies == 1:
            return []
        return ["makes candidates one by one and repeats none; put broadcast on the step behind it"]

    def process_table(self, table: pa.Table) -> pa.Table:
        """No row: candidates are made as they are wanted."""
        return table.slice(0, 0)


class Until(Step):
    """Ends a part that is repeated: every row that comes here is accepted, exactly `n_accepted` for each row.

    Candidates that are filtered on the way (by `when` of this step, by a `Filter`, by a routing) or that fail are not
    accepted, and others are made in their place, `max_candidates` at most for each row. A row for which they
    are not enough is a failure of the step `Candidates`, of the kind `candidates`; what was accepted goes on.
    """

    runs: ClassVar[Runs] = Runs.GATHER

    n_accepted: int = Field(ge=1)
    """Rows wanted of each row that came to `Candidates`."""
    max_candidates: int = Field(ge=1)
    """Candidates made of each row at most."""

    def problems(self) -> list[str]:
        if self.max_candidates >= self.n_accepted:
            return []
        given = f"max_candidates={self.max_candidates} and n_accepted={self.n_accepted}"
        return [f"has {given}: fewer candidates than are wanted; raise max_candidates"]

    def missing(self, accepted: int) -> str:
        """What is said of a row for which the candidates were not enough."""
        return (
            f"{accepted} of {self.n_accepted} rows were accepted of max_candidates={self.max_candidates} in "
            f"step {self.name!r}; raise max_candidates there and retry, what was asked is not asked again"
        )
