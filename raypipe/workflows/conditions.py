"""I say whether an edge is taken: a value of the memory compared with what is expected.

I do not know where the edge leads. Texts are compared without the white space around them.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, cast

from raypipe.errors import RowError, SpecError, nearest
from raypipe.steps.prompts.to_text import to_text
from raypipe.workflows.memory import Input, Memory


class Expression(StrEnum):
    """How a value is compared with what is expected."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    CONTAINS = "Contains"
    NOT_CONTAINS = "NotContains"
    GREATER_THAN = "GreaterThan"
    LESS_THAN = "LessThan"
    GREATER_THAN_OR_EQUAL = "GreaterThanOrEqual"
    LESS_THAN_OR_EQUAL = "LessThanOrEqual"
    HAVE_SIMILAR = "HaveSimilar"
    """Dria's search memory, which is not here: a workflow with it is refused when it is built."""


_ORDERS: dict[Expression, Callable[[float, float], bool]] = {
    Expression.GREATER_THAN: operator.gt,
    Expression.LESS_THAN: operator.lt,
    Expression.GREATER_THAN_OR_EQUAL: operator.ge,
    Expression.LESS_THAN_OR_EQUAL: operator.le,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """What must hold for an edge to be taken. Make one with `ConditionBuilder.build`."""

    input: Input
    expression: Expression
    expected: str
    target_if_not: str | None = None
    """The task gone to when it does not hold; by default the next edge of the same task is tried."""

    def holds(self, memory: Memory) -> bool:
        """Raises RowError (`condition`) for a value that cannot be compared."""
        value = memory.take(self.input)
        if self.expression in _ORDERS:
            return _ORDERS[self.expression](self._number(to_text(value)), float(self.expected))
        negated = self.expression in (Expression.NOT_EQUAL, Expression.NOT_CONTAINS)
        return self._agrees(value) is not negated

    def problem(self) -> str | None:
        """Why it can never be decided."""
        if self.expression is Expression.HAVE_SIMILAR:
            return "HAVE_SIMILAR needs a search memory, which is not here; compare with CONTAINS, or let a task judge"
        if self.expression in _ORDERS and _number(self.expected) is None:
            return f"{self.expression} compares numbers, and {self.expected!r} is none; expect a number"
        return None

    def _agrees(self, value: Any) -> bool:
        expected = self.expected.strip()
        if self.expression in (Expression.EQUAL, Expression.NOT_EQUAL):
            return to_text(value).strip() == expected
        values = cast("list[Any]", value) if isinstance(value, list) else [value]
        return any(expected in to_text(one) for one in values)

    def _number(self, text: str) -> float:
        number = _number(text)
        if number is None:
            said = f"{text[:80]!r} under {self.input.key!r} is no number"
            raise RowError(f"{said}, so it cannot be compared with {self.expected} ({self.expression})", "condition")
        return number


class ConditionBuilder:
    """Makes conditions of edges."""

    @staticmethod
    def build(input: Input, expression: Expression | str, expected: Any, target_if_not: str | None = None) -> Condition:
        """The edge is taken when `input` compares with `expected` as `expression` says; else on to `target_if_not`."""
        known = [one.value for one in Expression]
        if expression not in known:
            problem = f"there is no expression {expression!r}{nearest(str(expression), known)}"
            raise SpecError.of("condition", problem)
        return Condition(input, Expression(expression), to_text(expected), target_if_not)


def _number(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None
