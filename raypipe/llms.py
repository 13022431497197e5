"""The former address of the models that `raypipe.models` holds."""

from typing import Any

from raypipe.contracts.distilabel_names import missing
from raypipe.models.provider_classes import *  # noqa: F403
from raypipe.models.provider_classes import __all__ as __all__


def __getattr__(name: str) -> Any:
    raise missing(__name__, name, __all__)
