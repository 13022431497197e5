"""The parts of a workflow: tasks, edges between them, and limits. Knows nothing of how a task is run."""

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
"""The target of an edge that ends the workflow."""


class Operator(StrEnum):
    """What a task does."""

    GENERATION = "generation"
    FUNCTION_CALLING = "function_calling"
    FUNCTION_CALLING_RAW = "function_calling_raw"
    SEARCH = "search"
    SAMPLE = "sample"
    END = "end"


CALLING = frozenset({Operator.FUNCTION_CALLING, Operator.FUNCTION_CALLING_RAW})
"""They offer the model the workflow's tools: the first executes the model's calls, the second returns them as JSON."""


@dataclass(frozen=True, slots=True)
class Task:
    """One question to the model: messages with placeholders, and where its answer is stored."""

    id: str
    messages: tuple[Message, ...]
    operator: Operator = Operator.GENERATION
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    schema: Structure | None = None
    search: Search = field(default_factory=Search)
    """Options of a task that searches; its query is the message."""

    def placeholders(self) -> tuple[str, ...]:
        """Names of the placeholders in its messages, each once."""
        names = [name for message in self.messages for name in placeholders(str(message["content"]))]
        return tuple(dict.fromkeys(names))


@dataclass(frozen=True, slots=True)
class Edge:
    """An edge from the task `source` to the task `target`, or to `_end`.

    The edges of a task are tried in order.
    """

    source: str
    target: str
    condition: Condition | None = None
    """Only where it holds is the edge taken."""
    fallback: str | None = None
    """The next task when the source fails: its model cannot answer, the answer does not fit, or something it needs is
    not in the memory. Without one the row fails."""

    def targets(self) -> dict[str, str]:
        """The tasks it may lead to, by the option that names them."""
        if_not = None if self.condition is None else self.condition.target_if_not
        named = {"target": self.target, "target_if_not": if_not, "fallback": self.fallback}
        return {what: task for what, task in named.items() if task is not None}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a workflow for one row; a row that reaches one fails."""

    max_time: float = 200.0
    """Most seconds of work; time spent waiting until a call may be sent, or sent again, is not counted."""
    max_steps: int = 50
    """Most tasks that are run."""
    max_tokens: int | None = None
    """Most tokens of all answers together."""
