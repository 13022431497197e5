"""A workflow as a value: tasks, the edges between them, and the memory at the beginning. Runs nothing."""

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
    """What is done for one row. Definitions with equal parts are equal."""

    tasks: tuple[Task, ...]
    edges: tuple[Edge, ...]
    memory: Mapping[str, Any] = field(default_factory=lambda: {})
    """Values at the beginning; a key with `None` must be given by the row."""
    return_value: str | tuple[str, ...] | None = None
    """Keys of the return value; by default it is the answer to the last task that ran."""
    limits: Limits = field(default_factory=Limits)
    tools: tuple[CustomTool, ...] = ()
    """Functions for tasks that call functions."""
    search_service: SearchService = field(default_factory=SearchService)
    """Where tasks that search send their queries."""

    @property
    def start(self) -> str:
        """The task that the first edge leaves."""
        return self.edges[0].source

    @property
    def stacks(self) -> frozenset[str]:
        """Keys of the memory that hold stacks."""
        lists = {key for key, value in self.memory.items() if isinstance(value, list)}
        return frozenset(lists | self.written(Writing.PUSH))

    @property
    def keys(self) -> frozenset[str]:
        """All keys that the memory can have."""
        return frozenset(self.memory) | self.written(Writing.WRITE, Writing.PUSH)

    def written(self, *writings: Writing) -> frozenset[str]:
        """Keys that tasks write in these ways."""
        return frozenset(output.key for task in self.tasks for output in task.outputs if output.writing in writings)

    @property
    def searches(self) -> bool:
        """Whether a task searches the web."""
        return any(task.operator is Operator.SEARCH for task in self.tasks)

    def problems(self) -> list[str]:
        """What its tools and searches need and this machine lacks, one sentence each."""
        lacking = [f"tool {tool.called!r} {problem}" for tool in self.tools for problem in tool.problems()]
        return lacking + (self.search_service.problems() if self.searches else [])

    @property
    def returned_keys(self) -> tuple[str, ...]:
        """The keys of the return value, as a tuple even where there is one."""
        return (self.return_value,) if isinstance(self.return_value, str) else self.return_value or ()
