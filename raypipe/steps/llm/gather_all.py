"""Waits for several answers that a row asks for at once.

Knows nothing of what is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable
from typing import TypeVar

T = TypeVar("T")


async def gather_all(answers: Iterable[Awaitable[T]]) -> list[T]:
    """The answers, in order. Raises the first error, once no answer is on its way any more.

    Answers that are on their way are awaited even after one has failed: they are paid for, and once logged they need
    not be asked again.
    """
    found = await asyncio.gather(*answers, return_exceptions=True)
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return [one for one in found if not isinstance(one, BaseException)]
