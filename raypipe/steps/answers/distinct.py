"""Tells texts apart that are the same but for their case and white space.

Knows nothing of where they come from.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Distinct:
    """The texts met so far."""

    _met: set[str] = field(default_factory=set[str], init=False)

    def is_new(self, text: str) -> bool:
        """Whether the text is not blank and was not met before; it counts as met from now on."""
        bare = " ".join(text.casefold().split())
        if not bare or bare in self._met:
            return False
        self._met.add(bare)
        return True
