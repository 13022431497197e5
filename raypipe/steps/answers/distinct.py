"""I tell texts apart that say the same, but for their case and white space.

I do not know where they come from.
"""

from __future__ import annotations

from collections.abc import Iterable


class Distinct:
    """The texts met so far."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        self._met = {_bare(text) for text in texts}

    def is_new(self, text: str) -> bool:
        """Whether the text is not blank and was not met before; it counts as met from now on."""
        bare = _bare(text)
        if not bare or bare in self._met:
            return False
        self._met.add(bare)
        return True


def _bare(text: str) -> str:
    return " ".join(text.casefold().split())
