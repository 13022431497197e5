"""I am the steps that ask a model.

I do not know how they do it; each stands in a module of its own.
"""

from __future__ import annotations

from raypipe.steps.text_generation import TextGeneration

__all__ = ["TextGeneration"]
