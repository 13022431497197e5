"""The base of steps that ask a model for numbers about a row instead of text: embeddings, scores, shares of labels.

Knows nothing of what the numbers are for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, cast

import orjson

from raypipe.contracts.llm import Caller, Request
from raypipe.errors import RowError
from raypipe.steps.llm.model_step import ModelStep


class PoolingStep(ModelStep):
    """Base of the steps that ask embedding, reward and classification models."""

    model_example: ClassVar[str] = "vllm/model"
    no_content: ClassVar[Any] = ""
    """What a request about nothing has for content."""

    def request(self, content: Any) -> Request:
        """What is sent for a row's content: the text, or the messages."""
        raise NotImplementedError

    def requests(self) -> tuple[Request, ...]:
        return (self.request(self.no_content),)


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


def name_numbers(numbers: Sequence[float], names: Sequence[str], option: str) -> dict[str, float]:
    """The numbers by name. Raises RowError (`numbers`) where there are more or fewer than names."""
    if len(numbers) != len(names):
        problem = f"the model gives {len(numbers)} numbers, but {len(names)} are named"
        raise RowError(f"{problem}; name each of them in {option}=[…]", kind="numbers")
    return dict(zip(names, numbers, strict=True))


def check_different(names: list[str] | None) -> list[str] | None:
    """Raises ValueError for names of which two are the same."""
    if names is not None and len(set(names)) < len(names):
        raise ValueError("each number has a name of its own")
    return names
