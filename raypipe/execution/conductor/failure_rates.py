"""Finds out that the rows of a step fail again and again for one kind of reason, before all of them are paid for.

Counts rows that workers had, and rows of which nulls were made; what was filtered has not failed, and what failed
upstream never came. A step that is given many rows at once ended once. A step works in one phase of one stage, so its
counts live with the conductor of that. Knows nothing of what stops a run.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from raypipe.errors import shorten
from raypipe.execution.wire import FIRST_ROWS, UNFINISHED

LAST_ROWS = 200
"""Rows of a step that ended last, of which a share may fail alike."""
_EXAMPLE = 300
"""Characters of a failure's message that are shown."""
_ENDPOINT = frozenset({"broken_answer", "not_found", "quota", "rejected", "server", "timeout", "unreachable"})
"""Kinds of failures that are an endpoint's."""
_GO_ON = "run the same command again, no answer is paid twice; or let rows fail with max_failure_rate=None"


@dataclass(slots=True)
class _Ended:
    """The rows of one step that have ended."""

    count: int = 0
    failed: deque[tuple[int, str]] = field(default_factory=deque[tuple[int, str]])
    """Of the failed ones among the last: which it was, and its kind."""
    by_kind: Counter[str] = field(default_factory=Counter[str])

    def fail(self, kind: str) -> int:
        """One more failed; how many of the last rows failed so."""
        self.count += 1
        while self.failed and self.failed[0][0] <= self.count - LAST_ROWS:
            self.by_kind[self.failed.popleft()[1]] -= 1
        self.failed.append((self.count, kind))
        self.by_kind[kind] += 1
        return self.by_kind[kind]


class FailureRates:
    """How many of the last rows of each step failed. `shown`: what a user calls each step.

    `most`: the share of the last rows that may not fail for one kind of reason; `None`: all may.
    """

    def __init__(self, shown: Mapping[str, str], most: float | None) -> None:
        self._shown, self._most = shown, most
        self._steps: defaultdict[str, _Ended] = defaultdict(_Ended)
        self.problem = ""
        """Why the run is to stop; empty while it may go on."""

    def note(self, step: str, ended: pa.Table) -> None:
        """Rows of a step ended, in this order (`wire.ENDED`). What costs time is done for those that failed."""
        if self._most is None or self.problem:
            return
        there, status, kinds = self._steps[step], ended.column("status").to_numpy(), ended.column("kind")
        if kinds.null_count == len(kinds):
            there.count += int((status != UNFINISHED).sum())
            return
        for index, (state, kind) in enumerate(zip(status.tolist(), kinds.to_pylist(), strict=True)):
            if state == UNFINISHED:
                continue
            if kind is None:
                there.count += 1
            elif self._fail(step, kind, ended.column("message")[index].as_py() or ""):
                return

    def fail(self, step: str, kind: str, message: str) -> None:
        """A row failed of which its worker reported nothing."""
        if self._most is not None and not self.problem:
            self._fail(step, kind, message)

    def _fail(self, step: str, kind: str, message: str) -> bool:
        assert self._most is not None
        there = self._steps[step]
        alike = there.fail(kind)
        if alike == there.count == FIRST_ROWS:
            of = f"the first {FIRST_ROWS} rows all failed"
        elif there.count >= LAST_ROWS and alike >= self._most * LAST_ROWS:
            of = f"{alike} of the last {LAST_ROWS} rows failed"
        else:
            return False
        example = shorten(" ".join(message.split()), _EXAMPLE)
        wrong = (
            "the endpoint, the model or its options" if kind in _ENDPOINT else "the prompt, the schema or the parser"
        )
        wrong = "the prompt or the model (or retry with --ask-again)" if kind == "refused" else wrong
        where = f"step {self._shown.get(step, step)!r} fails for one kind of reason ({kind})"
        self.problem = f"{where}: {of}, for example: {example}; change {wrong} and {_GO_ON} (--max-failure-rate off)"
        return True
