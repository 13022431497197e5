"""The address from which programs of Dria import the classes of `raypipe.workflows`."""

from raypipe.workflows import *  # noqa: F403
from raypipe.workflows import __all__ as __all__
