"""A workflow that can be run, saved and loaded. Knows nothing of which model answers."""

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
    """Several calls for one row: tasks, the edges between them, and the memory at the beginning.

    `WorkflowBuilder.build` makes one and checks it. It is a plain value: workflows with equal parts are equal.
    """

    async def run(self, llm: Caller, memory: Mapping[str, Any] | None = None, *, longest: int | None = None) -> Any:
        """Run it for one row. Returns text, a value of a schema, a list of a stack, or a mapping of several keys.

        `memory` takes the place of initial values; `longest` is the most tokens of one answer, where the model has such
        a limit of its own. Raises RowError for a row that cannot pass.
        """
        return await Run(self, llm, memory or {}, longest).value()

    def to_dict(self) -> dict[str, Any]:
        """The workflow as plain data, in the form of Dria's files; a pydantic class is named by its dotted path."""
        plain = saving.describe(self)
        for task in plain["tasks"]:
            if isinstance(task.get("schema"), type):
                task["schema"] = saving.PATH.format(task["schema"])
        return plain

    def save(self, path: str | Path) -> None:
        """Write it as JSON. Raises SpecError for a pydantic class that a reader of the file cannot import."""
        saving.check_importable(self)
        Path(path).write_bytes(orjson.dumps(self.to_dict(), option=orjson.OPT_INDENT_2))

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """The workflow that `to_dict` described. Raises SpecError for what is no workflow, or an unsound one."""
        try:
            made = cls(**saving.read_parts(plain))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            problem = f"is not in the form that Workflow.save writes ({type(error).__name__}: {error})"
            raise SpecError.of("workflow", problem) from None
        check(made)
        return made

    @classmethod
    def load(cls, path: str | Path, allow_import: Sequence[str] = ()) -> Self:
        """The workflow that `save` wrote; classes that it names are imported only from the modules `allow_import`.

        Raises SpecError for what is no workflow, or an unsound one, or names a class of another module.
        """
        try:
            plain = orjson.loads(Path(path).read_bytes())
        except (OSError, orjson.JSONDecodeError) as error:
            raise SpecError.of(f"workflow {str(path)!r}", f"cannot be read: {error}") from None
        with permitted(Permissions(imports=tuple(allow_import))):
            return cls.from_dict(plain)
