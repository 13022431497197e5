"""Asks a model for the parts of a text, then for the parts of each part, to a depth.

Knows nothing of what the texts are. A tree is one row's work, level by level, so that its depth is an option and not a
number of steps, and so that no text stands in it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from raypipe.contracts.llm import Caller
from raypipe.contracts.step import Output
from raypipe.row import Values
from raypipe.steps.answers.distinct import Distinct
from raypipe.steps.llm.gather_all import gather_all
from raypipe.steps.llm.iterative_step import IterativeStep
from raypipe.steps.prompts.inputs import text_of

_PATH = "path"
_DEPTH = "depth"

Node = dict[str, Any]


class TreeGeneration(IterativeStep):
    """Asks for parts of the column `root`, then for parts of each part; each text below the root becomes a row.

    The answer is a list of texts that goes into one column, as with `TextGeneration(…).scatter()`. That column, `path`
    (the texts from the root down to it) and `depth` (1 below the root) are written; the template has all three of the
    text that it asks about. Rows come level by level. A text that is in the tree already is left out, with what would
    be below it; case and white space do not tell texts apart.
    """

    start_option: ClassVar[str] = "root"
    brings: ClassVar[tuple[str, ...]] = (_PATH, _DEPTH)
    marks: ClassVar[Mapping[str, str]] = {_PATH: "list<string>", _DEPTH: "int64"}

    root: str = "topic"
    """Column with the text at the top."""
    max_depth: int = Field(default=2, ge=0)
    """Levels below the root."""
    leaves_only: bool = False
    """Only texts that nothing is below become rows; the root, if it is the whole tree."""

    def reads(self) -> tuple[str, ...]:
        return tuple(name for name in super().reads() if name == self.root or name not in self._wanted_outputs().types)

    def problems(self) -> list[str]:
        found = super().problems()
        if self.max_depth == 0 and not self.leaves_only:
            found.append("makes no row with max_depth=0; ask for a level, or for the root with leaves_only=True")
        return found

    async def process_row(self, row: Values, llm: Caller) -> Output:
        root = text_of(row, self.root)
        top = self.row_of(root, {_PATH: [root.strip()], _DEPTH: 0})
        met, level, tree = Distinct(), [top], [top]
        met.is_new(root)
        parents: set[tuple[str, ...]] = set()
        for depth in range(1, self.max_depth + 1):
            answers = await gather_all(self.ask_for_texts({**row, **node}, llm) for node in level)
            below: list[Node] = []
            for node, parts in zip(level, answers, strict=True):
                for part in parts:
                    if met.is_new(text := part[self.column]):
                        below.append(self.row_of(text, {_PATH: [*node[_PATH], text.strip()], _DEPTH: depth}, part))
                        parents.add(tuple(node[_PATH]))
            level = below
            tree += level
        return [node for node in tree if tuple(node[_PATH]) not in parents] if self.leaves_only else tree[1:]
