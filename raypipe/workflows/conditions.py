"""Decides whether an edge is taken: compares a value of the memory with an expected one.

Knows nothing of where the edge leads. Texts are compared without the white space around them.
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
    """How a value is compared with the expected one."""

    EQUAL = "Equal"
    NOT_EQUAL = "NotEqual"
    CONTAINS = "Contains"
    NOT_CONTAINS = "NotContains"
    GREATER_THAN = "GreaterThan"
    LESS_THAN = "LessThan"
    GREATER_THAN_OR_EQUAL = "GreaterThanOrEqual"
    LESS_THAN_OR_EQUAL = "LessThanOrEqual"
    HAVE_SIMILAR = "HaveSimilar"
    """Dria's search memory, which raypipe does not have: a workflow with it is refused when it is built."""


_ORDERS: dict[Expression, Callable[[float, float], bool]] = {
    Expression.GREATER_THAN: operator.gt,
    Expression.LESS_THAN: operator.lt,
    Expression.GREATER_THAN_OR_EQUAL: operator.ge,
    Expression.LESS_THAN_OR_EQUAL: operator.le,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """The condition of an edge. Make one with `ConditionBuilder.build`."""

    input: Input
    expression: Expression
    expected: str
    target_if_not: str | None = None
    """The next task when it does not hold; by default the next edge of the same task is tried."""

    def holds(self, memory: Memory) -> bool:
        """Whether the edge is taken. Raises RowError (`condition`) for a value that cannot be compared."""
        value = memory.take(self.input)
        expected = self.expected.strip()
        if self.expression in _ORDERS:
            number = _parse_number(to_text(value))
            if number is None:
                problem = f"{to_text(value)[:80]!r} under {self.input.key!r} is not a number"
                reason = f"so it cannot be compared with {self.expected} ({self.expression})"
                raise RowError(f"{problem}, {reason}", "condition")
            return _ORDERS[self.expression](number, float(expected))
        if self.expression in (Expression.EQUAL, Expression.NOT_EQUAL):
            agrees = to_text(value).strip() == expected
        else:
            values = cast("list[Any]", value) if isinstance(value, list) else [value]
            agrees = any(expected in to_text(one) for one in values)
        return agrees is not (self.expression in (Expression.NOT_EQUAL, Expression.NOT_CONTAINS))

    def problem(self) -> str | None:
        """Why it can never be decided, if so."""
        if self.expression is Expression.HAVE_SIMILAR:
            return "HAVE_SIMILAR needs a search memory, which is not here; compare with CONTAINS, or let a task judge"
        if self.expression in _ORDERS and _parse_number(self.expected) is None:
            return f"{self.expression} compares numbers, and {self.expected!r} is not one; expect a number"
        return None


class ConditionBuilder:
    """Makes the conditions of edges."""

    @staticmethod
    def build(input: Input, expression: Expression | str, expected: Any, target_if_not: str | None = None) -> Condition:
        """A condition that holds when `input` compares with `expected` as `expression` says.

        `target_if_not`: the next task when it does not hold; by default the next edge of the same task is tried. Raises
        SpecError for an unknown expression.
        """
        known = [one.value for one in Expression]
        if expression not in known:
            problem = f"there is no expression {expression!r}{nearest(str(expression), known)}"
            raise SpecError.of("condition", problem)
        return Condition(input, Expression(expression), to_text(expected), target_if_not)


def _parse_number(text: str) -> float | None:
    try:
        return float(text.strip())
    except ValueError:
        return None
