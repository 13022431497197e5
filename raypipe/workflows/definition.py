"""Says what one row does: tasks, the edges between them, and what is remembered at the beginning. Runs nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raypipe.steps.llm.tools import CustomTool
from raypipe.workflows.memory import Writing
from raypipe.workflows.search_tool import SearchService
from raypipe.workflows.tasks import Edge, Limits, Operator, Task


@dataclass(frozen=True, slots=True)
class Definition:
    """What one row does, as a value: equal definitions are equal."""

    tasks: tuple[Task, ...]
    edges: tuple[Edge, ...]
    memory: Mapping[str, Any] = field(default_factory=lambda: {})
    """What is there at the beginning; a key with `None` must be given by the row."""
    return_value: str | tuple[str, ...] | None = None
    """Keys of what a row gets; by default what the last task that ran was answered."""
    limits: Limits = field(default_factory=Limits)
    tools: tuple[CustomTool, ...] = ()
    """What tasks that call functions may call."""
    search_service: SearchService = field(default_factory=SearchService)
    """Where tasks that search send their queries."""

    @property
    def start(self) -> str:
        """The task that the first edge leads away from."""
        return self.edges[0].source

    @property
    def stacks(self) -> frozenset[str]:
        """Keys of the memory that hold stacks."""
        lists = {key for key, value in self.memory.items() if isinstance(value, list)}
        return frozenset(lists | self.written(Writing.PUSH))

    @property
    def keys(self) -> frozenset[str]:
        """All keys that the memory can have."""
        return frozenset(self.memory) | self.written(Writing.WRITE) | self.written(Writing.PUSH)

    def written(self, writing: Writing) -> frozenset[str]:
        """Keys that tasks write in this way."""
        return frozenset(output.key for task in self.tasks for output in task.outputs if output.writing is writing)

    @property
    def searches(self) -> bool:
        """Whether a task searches the web."""
        return any(task.operator is Operator.SEARCH for task in self.tasks)

    def problems(self) -> list[str]:
        """What its tools and searches lack on this machine."""
        lacking = [f"tool {tool.called!r} {problem}" for tool in self.tools for problem in tool.problems()]
        return lacking + (self.search_service.problems() if self.searches else [])

    def returned(self) -> tuple[str, ...]:
        """The keys of the return value."""
        return (self.return_value,) if isinstance(self.return_value, str) else self.return_value or ()
