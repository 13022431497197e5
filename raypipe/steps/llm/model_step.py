"""The base of all steps that ask a model: there is a model to ask.

Knows nothing of what is asked.
"""

from __future__ import annotations

from typing import ClassVar

from raypipe.contracts.step import Step
from raypipe.errors import SpecError, Violation


class ModelStep(Step):
    """Base of the steps that ask `llm`."""

    model_example: ClassVar[str] = "provider/model"
    """How a model for it is written, as a message shows it."""

    def problems(self) -> list[str]:
        if self.llm is not None:
            return []
        return [f'asks a model but has none; give it llm=LLM("{self.model_example}")']

    def open(self) -> None:
        """Raises SpecError for a step that cannot work."""
        problems = self.problems()
        if problems:
            raise SpecError(violations=[Violation(f"step {self.name!r}", problem) for problem in problems])
