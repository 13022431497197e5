"""I am another address of the words of workflows, which `raypipe.workflows` holds."""

from raypipe.workflows import *  # noqa: F403
from raypipe.workflows import __all__ as __all__
