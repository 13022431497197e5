"""I am the former address of the models that `raypipe.models` holds."""

from raypipe.models.named import *  # noqa: F403
from raypipe.models.named import __all__ as __all__
