"""I ask a model for numbers about a row, not for text.

I do not know what is asked; the steps built on me do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import orjson

from raypipe.contracts.llm import Caller, Request
from raypipe.contracts.step import Step
from raypipe.errors import RowError, SpecError, Violation


class PoolingStep(Step):
    """Base of the steps that ask embedding, reward and classification models."""

    def problems(self) -> list[str]:
        if self.llm is not None:
            return []
        return ['asks a model but has none; give it llm=LLM("vllm/model")']

    def open(self) -> None:
        found = self.problems()
        if found:
            raise SpecError(violations=[Violation(f"step {self.name!r}", problem) for problem in found])


async def ask_numbers(llm: Caller, request: Request) -> list[float]:
    """The numbers of a request that has `pool`. Raises RowError (`numbers`) for an answer that is something else."""
    completion = await llm.complete(request)
    try:
        found: Any = orjson.loads(completion.text)
    except orjson.JSONDecodeError:
        found = None
    numbers = cast("list[Any]", found) if isinstance(found, list) else []
    if not numbers or not all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        raise RowError(f"the model gave no numbers: {completion.text[:60]!r}", kind="numbers")
    return [float(one) for one in numbers]


def named_numbers(numbers: Sequence[float], names: Sequence[str], option: str) -> dict[str, float]:
    """The numbers by name. Raises RowError (`numbers`) where there are more or fewer than names."""
    if len(numbers) != len(names):
        problem = f"the model gives {len(numbers)} numbers, but {len(names)} are named"
        raise RowError(f"{problem}; name each of them in {option}=[…]", kind="numbers")
    return dict(zip(names, numbers, strict=True))


def with_different_names(names: list[str] | None) -> list[str] | None:
    """Raises ValueError for names of which two are the same."""
    if names is not None and len(set(names)) < len(names):
        raise ValueError("each number has a name of its own")
    return names
