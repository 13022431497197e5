"""Turns the value of one completion into the columns of rows.

Knows nothing of where the value comes from. Which columns there are is settled before the run, so that
a pipeline can be checked without spending anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

from raypipe.errors import RowError
from raypipe.steps.answers.parsing import TYPES, Parser, mapped, parser_pattern
from raypipe.steps.answers.schemas import Node, arrow_type, items, properties

DEFAULT = "generation"


@dataclass(frozen=True, slots=True)
class Outputs:
    """The columns that a value becomes."""

    types: dict[str, str]
    """Arrow type by column name."""
    whole: bool = True
    """The value goes as it is into the only column; otherwise each column has its own part of it."""
    unwrap: str | None = None
    """The only property of an object, which stands for it."""
    has_schema: bool = False
    """The value was checked: a part that is missing may be missing."""
    problem: str = ""
    """Why no value can become these columns."""

    def row(self, value: Any) -> dict[str, Any]:
        """The columns of one row, which take the value or its parts.

        Raises RowError (`parse`) when the value has not the parts that the columns need.
        """
        if self.unwrap is not None and isinstance(value, dict):
            value = cast(dict[str, Any], value).get(self.unwrap)
        return dict.fromkeys(self.types, value) if self.whole else self._columns(value)

    def rows(self, value: Any) -> list[dict[str, Any]]:
        """One row for each item of a list. Raises RowError when the value is no list."""
        if self.unwrap is not None and isinstance(value, dict):
            value = cast(dict[str, Any], value).get(self.unwrap)
        if not isinstance(value, list | tuple):
            got = type(value).__name__
            raise RowError(f"scatter needs a list, but the completion was parsed as {got}", kind="parse")
        return [self._columns(item) for item in cast(Sequence[Any], value)]

    def _columns(self, value: Any) -> dict[str, Any]:
        if self.whole:
            return dict.fromkeys(self.types, value)
        if self.has_schema and isinstance(value, dict):
            parts = cast(dict[str, Any], value)
            return {name: parts.get(name) for name in self.types}
        return mapped(value, tuple(self.types))


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a step declares of its output columns."""

    output: str | None
    outputs: tuple[str, ...] | None
    scattered: bool


def from_text(wanted: Wanted, parse: str | Parser, pattern: str | None) -> Outputs:
    """The columns of a parsed text."""
    groups = tuple(parser_pattern(pattern).groupindex) if parse == "regex" else ()
    parts = groups if wanted.outputs is None else wanted.outputs
    if wanted.outputs is None and wanted.output is not None and (parse == "tags" or groups):
        parts = (wanted.output,)
    known = TYPES.get(parse, "") if isinstance(parse, str) else ""
    inner = known.removeprefix("list<").removesuffix(">")
    problem = ""
    if parse in ("text", "tags", "regex") and wanted.scattered:
        problem = f"scatter needs a list, but parse={parse!r} gives none; parse as 'lines', 'comma_list' or 'json_list'"
    elif parse == "text" and len(parts) > 1:
        problem = (
            f"parse='text' gives one value for {len(parts)} columns; parse as 'tags', 'json' or with your own function"
        )
    elif groups and not set(groups) >= set(parts):
        problem = f"the pattern has the groups {', '.join(groups)}, but the columns are {', '.join(parts)}"
    if parts:
        return Outputs(dict.fromkeys(parts, inner), whole=False, problem=problem)
    name = wanted.output or DEFAULT
    kind = "" if parse == "tags" else inner if wanted.scattered else known
    return Outputs({name: kind}, problem=problem)


def from_structure(wanted: Wanted, schema: Node) -> Outputs:
    """The columns of an answer that satisfies `schema`."""
    top = properties(schema, schema)
    only = next(iter(top)) if len(top) == 1 else None
    if wanted.scattered:
        return _from_list(wanted, schema, only)
    if wanted.output is not None:
        return Outputs({wanted.output: arrow_type(top[only] if only else schema, schema)}, unwrap=only, has_schema=True)
    if wanted.outputs is None and not top:
        return Outputs({DEFAULT: arrow_type(schema, schema)}, has_schema=True)
    return _parts(wanted.outputs or tuple(top), top, schema)


def _from_list(wanted: Wanted, schema: Node, only: str | None) -> Outputs:
    whole_list = properties(schema, schema)[only] if only else schema
    item = items(whole_list, schema)
    if item is None:
        problem = (
            "scatter needs a list, but the schema is neither a list nor an object with a list as its only property"
        )
        return Outputs({wanted.output or only or DEFAULT: ""}, problem=problem)
    if wanted.outputs is not None:
        inner = properties(item, schema)
        return _parts(wanted.outputs, inner, schema, unwrap=only)
    return Outputs({wanted.output or only or DEFAULT: arrow_type(item, schema)}, unwrap=only, has_schema=True)


def _parts(names: Sequence[str], known: dict[str, Node | bool], schema: Node, unwrap: str | None = None) -> Outputs:
    unknown = [name for name in names if name not in known]
    problem = f"the schema has no property {unknown[0]!r} (it has: {', '.join(known) or 'none'})" if unknown else ""
    types = {name: arrow_type(known[name], schema) if name in known else "" for name in names}
    return Outputs(types, whole=False, unwrap=unwrap, has_schema=True, problem=problem)
