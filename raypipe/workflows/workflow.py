"""I am what one row does: tasks, the edges between them, and what is remembered at the beginning.

I do not know which model answers. I am a plain value: equal workflows are equal, and one that was saved is read
again with `Workflow.load`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import orjson

from raypipe.chat import Caller
from raypipe.errors import SpecError, Violation
from raypipe.permissions import Permissions, permitted
from raypipe.steps.tools import CustomTool
from raypipe.workflows import saving
from raypipe.workflows.memory import Writing
from raypipe.workflows.running import Run
from raypipe.workflows.searching import SearchService
from raypipe.workflows.soundness import check
from raypipe.workflows.tasks import Edge, Limits, Operator, Task


@dataclass(frozen=True, slots=True)
class Workflow:
    """What one row does. `WorkflowBuilder.build` makes one that is sound."""

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

    async def run(self, llm: Caller, memory: Mapping[str, Any] | None = None, *, longest: int | None = None) -> Any:
        """The return value: a text, or what a schema made of it; of a stack a list; of several keys a mapping.

        `memory` stands before the initial one; `longest` is the most tokens of one answer where the model has such a
        limit of its own. Raises RowError for a row that cannot pass.
        """
        return await Run(self, llm, memory or {}, longest).value()

    def to_dict(self) -> dict[str, Any]:
        """The workflow as plain data, in the form of Dria's files."""
        return saving.to_dict(self)

    def save(self, path: str | Path) -> None:
        """Write it as JSON. Raises SpecError for a pydantic class that whoever reads it cannot import."""
        saving.check_found(self)
        Path(path).write_bytes(orjson.dumps(self.to_dict(), option=orjson.OPT_INDENT_2))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The workflow that `to_dict` gave. Raises SpecError for what is none, or is not sound."""
        try:
            made = cls(**saving.parts_of(plain))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"is not in the form that Workflow.save writes ({type(error).__name__}: {error})"
            raise SpecError(violations=[Violation("workflow", problem)]) from None
        check(made)
        return made

    @classmethod
    def load(cls, path: str | Path, allow_import: Sequence[str] = ()) -> Self:
        """The workflow that `save` wrote. Classes that it names are imported from the modules `allow_import` alone.

        Raises SpecError for what is none, or is not sound, or names a class of another module.
        """
        try:
            plain = orjson.loads(Path(path).read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise SpecError(violations=[Violation(f"workflow {str(path)!r}", f"cannot be read: {error}")]) from None
        with permitted(Permissions(imports=tuple(allow_import))):
            return cls.from_dict(plain)
