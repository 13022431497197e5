"""Names the option that a step still lacks and that may be given when the pipeline is run.

Knows nothing of how it is given then.
"""

from __future__ import annotations

from raypipe.contracts.declaration import late_problem
from raypipe.contracts.imports import snake_case
from raypipe.contracts.step import Step


def missing_option(step: Step, option: str) -> list[str]:
    """What is unsound about a step without a value for `option`, and what to write."""
    if getattr(step, option) not in (None, "", []):
        return []
    return [late_problem(step.name or f"{snake_case(type(step).__name__)}_0", option)]
