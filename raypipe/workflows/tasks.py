"""I am the parts of a workflow: what is asked, and where it goes from there.

I do not know how a task is run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from raypipe.contracts.llm import Message
from raypipe.steps.answers.structured import Structure
from raypipe.workflows.conditions import Condition
from raypipe.workflows.memory import Input, Output
from raypipe.workflows.prompts import placeholders
from raypipe.workflows.search_tool import Search

END = "_end"
"""Where a workflow ends."""


class Operator(StrEnum):
    """What a task does."""

    GENERATION = "generation"
    FUNCTION_CALLING = "function_calling"
    FUNCTION_CALLING_RAW = "function_calling_raw"
    SEARCH = "search"
    SAMPLE = "sample"
    END = "end"


CALLING = frozenset({Operator.FUNCTION_CALLING, Operator.FUNCTION_CALLING_RAW})
"""They offer the workflow's tools; the first executes what the model calls, the second gives the calls as JSON."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question to the model: messages with placeholders, and what becomes of the answer."""

    id: str
    messages: tuple[Message, ...]
    operator: Operator = Operator.GENERATION
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    schema: Structure | None = None
    search: Search = field(default_factory=Search)
    """How a search is made of what the message says."""

    def placeholders(self) -> tuple[str, ...]:
        """What its messages leave open."""
        names = [name for message in self.messages for name in placeholders(str(message["content"]))]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class Edge:
    """From `source` to `target`, a task's id or `_end`.

    The edges of a task are tried in order. `fallback` is the task gone to when the source fails: its model cannot
    answer, the answer does not fit, or something it needs is not in the memory. Without one the row fails.
    """

    source: str
    target: str
    condition: Condition | None = None
    fallback: str | None = None

    @property
    def decides(self) -> bool:
        """Whether no edge behind it is ever tried."""
        return self.condition is None or self.condition.target_if_not is not None

    def ends(self) -> dict[str, str]:
        """All it may lead to, by what leads there."""
        if_not = None if self.condition is None else self.condition.target_if_not
        named = {"target": self.target, "target_if_not": if_not, "fallback": self.fallback}
        return {what: task for what, task in named.items() if task is not None}


@dataclass(frozen=True, slots=True)
class Limits:
    """What ends a row whose workflow does not come to its end."""

    max_time: float = 200.0
    """Seconds of work; waiting until a call may be sent or tried again is not counted."""
    max_steps: int = 50
    """Tasks run."""
    max_tokens: int | None = None
    """Tokens that all answers have together."""
