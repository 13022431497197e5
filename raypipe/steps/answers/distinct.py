"""Tells texts apart that are the same but for their case and white space.

Knows nothing of where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable


class Distinct:
    """The texts met so far."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._met: set[str] = set()
        for text in texts:
            self.is_new(text)

    def is_new(self, text: str) -> bool:
        """Whether the text is not blank and was not met before; it counts as met from now on."""
        bare = " ".join(text.casefold().split())
        if not bare or bare in self._met:
            return False
        self._met.add(bare)
        return True
