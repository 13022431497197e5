"""I am what one row does: tasks, the edges between them, and what is remembered at the beginning.

I do not know which model answers. I am a plain value: equal workflows are equal, and one that was saved is read
again with `Workflow.load`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import orjson

from raypipe.contracts.llm import Caller
from raypipe.errors import SpecError
from raypipe.security.permissions import Permissions, permitted
from raypipe.workflows import saving
from raypipe.workflows.checks import check
from raypipe.workflows.definition import Definition
from raypipe.workflows.interpreter import Run


@dataclass(frozen=True, slots=True)
class Workflow(Definition):
    """What one row does. `WorkflowBuilder.build` makes one that is sound."""

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
            raise SpecError.of("workflow", problem) from None
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
            raise SpecError.of(f"workflow {str(path)!r}", f"cannot be read: {error}") from None
        with permitted(Permissions(imports=tuple(allow_import))):
            return cls.from_dict(plain)
