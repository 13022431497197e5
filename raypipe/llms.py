"""I am the former address of the models that `raypipe.models` holds."""

from typing import Any

from raypipe.elsewhere import missing
from raypipe.models.named import *  # noqa: F403
from raypipe.models.named import __all__ as __all__


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, __all__)
