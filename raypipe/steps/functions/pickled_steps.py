"""Lets a step whose class was made of a function travel as that function, where workers cannot import the class.

Knows nothing of how such a class is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from raypipe.contracts.imports import is_importable


class MadeOfFunction:
    """Base of the classes that are made of functions."""

    made_by: ClassVar[tuple[Callable[..., type[Any]], tuple[Any, ...]]]
    """What makes the class, and its arguments, the function among them."""

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A step whose class workers cannot import is pickled as what its class is made of."""
        kind = type(self)
        if is_importable(kind):
            return super().__reduce_ex__(protocol)
        return _restore, (*kind.made_by, self.__getstate__())


def _restore(make_class: Callable[..., type[Any]], arguments: tuple[Any, ...], state: Any) -> Any:
    """The step that was pickled as what its class is made of."""
    kind: Any = make_class(*arguments)
    made = kind.__new__(kind)
    made.__setstate__(state)
    return made
