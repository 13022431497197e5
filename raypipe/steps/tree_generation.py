"""I ask a model for the parts of a text, then for the parts of each part, to a depth.

I do not know what the texts are. A tree is one row's work, level by level, so that its depth is an option and not a
number of steps, and so that no text stands in it twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from raypipe.chat import Caller
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.step import Columns, Output, Shape
from raypipe.steps.asking import shown, text_of
from raypipe.steps.awaiting import all_of
from raypipe.steps.distinct import Distinct
from raypipe.steps.text_generation import TextGeneration

_PATH = "path"
_DEPTH = "depth"


class TreeGeneration(TextGeneration):
    """Asks for parts of the column `root`, then for parts of each part; each text below the root becomes a row.

    The answer is a list of texts that goes into one column, as with `TextGeneration(…).scatter()`. That column, `path`
    (the texts from the root down to it) and `depth` (1 below the root) are written; the template has all three of the
    text that it asks about. Rows come level by level. A text that is in the tree already is left out, with what would
    be below it; case and white space do not tell texts apart.
    """

    scattered: bool = Field(default=True, alias="scatter")
    """Each text is a row; there is no other way."""
    root: str = "topic"
    """Column with the text at the top."""
    max_depth: int = Field(default=2, ge=0)
    """Levels below the root."""
    leaves_only: bool = False
    """Only texts that nothing is below become rows; the root, if it is the whole tree."""

    @property
    def shape(self) -> Shape:
        return Shape.SCATTER

    def reads(self) -> tuple[str, ...]:
        own = (*self._wanted_outputs().types, _PATH, _DEPTH)
        return tuple(dict.fromkeys((self.root, *(name for name in super().reads() if name not in own))))

    def needs(self) -> Columns:
        kept = (name for name in super().needs() or () if name not in super(TreeGeneration, self).reads())
        return (*self.reads(), *kept)

    def writes(self) -> dict[str, str]:
        return super().writes() | {_PATH: "list<string>", _DEPTH: "int64"}

    def problems(self) -> list[str]:
        found = super().problems()
        columns = list(self._wanted_outputs().types)
        if not self.scattered:
            found.append("makes a row of each text; leave scatter=False out")
        if len(columns) > 1 or {_PATH, _DEPTH} & set(columns):
            found.append(f"needs one column for its texts, beside {_PATH!r} and {_DEPTH!r}; name it with output=…")
        if self.max_depth == 0 and not self.leaves_only:
            found.append("makes no row with max_depth=0; ask for a level, or for the root with leaves_only=True")
        return found

    async def process_row(self, row: Values, llm: Caller) -> Output:
        column = next(iter(self._wanted_outputs().types))
        root = text_of(row, self.root)
        top: dict[str, Any] = dict.fromkeys(self.writes()) | {column: root, _PATH: [root], _DEPTH: 0}
        met, level, made = Distinct([root]), [top], [top]
        parents: set[tuple[str, ...]] = set()
        for _ in range(self.max_depth):
            answers = await all_of(self._below(row, node, llm) for node in level)
            pairs = [(node, part) for node, parts in zip(level, answers, strict=True) for part in parts]
            pairs = [(node, part) for node, part in pairs if met.is_new(_text(part[column]))]
            parents |= {tuple(node[_PATH]) for node, _ in pairs}
            level = [_child(node, part, column) for node, part in pairs]
            made += level
        return [node for node in made if tuple(node[_PATH]) not in parents] if self.leaves_only else made[1:]

    async def _below(self, row: Values, node: Values, llm: Caller) -> list[Mapping[str, Any]]:
        """The columns of each part of a node."""
        made: Any = await self.program.run({**row, **node}, llm)
        return made


def _child(node: Values, part: Mapping[str, Any], column: str) -> dict[str, Any]:
    text = part[column].strip()
    return {**part, column: text, _PATH: [*node[_PATH], text], _DEPTH: node[_DEPTH] + 1}


def _text(item: Any) -> str:
    if not isinstance(item, str):
        raise RowError(f"an item of the answer is no text: {shown(item)}", kind="parse")
    return item
