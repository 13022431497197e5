"""Draws combinations of values, one value for each variable, none of them twice.

Knows nothing of what the variables mean. What is drawn follows from the variables and the seed, and more samples begin
with the same combinations as fewer, so that a larger run continues a smaller one.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from pydantic import Field

from raypipe.contracts.step import Output, Runs, Shape, Step
from raypipe.errors import RowError
from raypipe.identity import canonical_json, digest
from raypipe.row import Values
from raypipe.steps.answers.distinct import Distinct
from raypipe.steps.prompts.to_text import quoted

_FORM = 'a list such as [{"name": "age", "values": ["20 to 30", "over 60"]}]'

Variable = tuple[str, list[str]]


class CombinationSampler(Step):
    """Makes `num_samples` rows of one; the column `output` of each lists the variables with the value drawn for them.

    Every combination is as likely as any other and is drawn once, so there are fewer rows where there are fewer
    combinations. Duplicate names and values count once; a variable without values is left out. A row without
    variables fails.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    output_shape: ClassVar[Shape] = Shape.SCATTER
    reading_options: ClassVar[tuple[str, ...]] = ("variables", "num_samples")
    writing_options: ClassVar[tuple[str, ...]] = ("output",)

    variables: str = "variables"
    """Column with the variables: a list of mappings with `name` and `values`."""
    num_samples: int | str = Field(default=10)
    """Rows wanted: a number, or the column that has it."""
    output: str = "combination"
    """Column for the combination: a list of mappings with `name` and `value`."""
    seed: int = 0

    def problems(self) -> list[str]:
        is_possible = isinstance(self.num_samples, str) or self.num_samples >= 1
        return [] if is_possible else [f"draws {self.num_samples} samples; write a number from 1 on, or a column"]

    def process_row_in_thread(self, row: Values) -> Output:
        variables = _variables(self.variables, row[self.variables])
        total = math.prod(len(values) for _, values in variables)
        key = digest(b"combinations", canonical_json([variables, self.seed]))
        generator = random.Random(int.from_bytes(key))
        numbers: dict[int, None] = {}
        while len(numbers) < min(self._count(row), total):
            numbers[generator.randrange(total)] = None
        return [{self.output: _combination(variables, number)} for number in numbers]

    def _count(self, row: Values) -> int:
        """The number of samples wanted for a row. Raises RowError where its column holds no such number."""
        if isinstance(self.num_samples, int):
            return self.num_samples
        count = row[self.num_samples]
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            problem = f"column {self.num_samples!r} is not a number of samples but {quoted(count)}"
            raise RowError(problem, kind="input")
        return count


def _combination(variables: Sequence[Variable], number: int) -> list[dict[str, str]]:
    """The combination with this number, counted with the last variable fastest."""
    made: list[dict[str, str]] = []
    for name, values in reversed(variables):
        number, index = divmod(number, len(values))
        made.insert(0, {"name": name, "value": values[index]})
    return made


def _variables(column: str, given: Any) -> list[Variable]:
    """The variables in a column, without duplicates. Raises RowError where there are none."""
    names, found = Distinct(), list[Variable]()
    for one in cast("list[Any]", given) if isinstance(given, list) else [given]:
        name, values = (one.get("name"), one.get("values")) if isinstance(one, Mapping) else (None, None)
        if not isinstance(name, str) or not isinstance(values, list) or not all(isinstance(v, str) for v in values):
            raise RowError(f"column {column!r} is {quoted(one)}, not {_FORM}", kind="input")
        met = Distinct()
        kept = [value.strip() for value in cast("list[str]", values) if met.is_new(value)]
        if kept and names.is_new(name):
            found.append((name.strip(), kept))
    if not found:
        raise RowError(f"column {column!r} has no variable with values; give {_FORM}", kind="input")
    return found
