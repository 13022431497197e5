"""I let steps travel whose module no worker can import, because it was loaded from a file by its path.

I do not know what the steps do. Everything of such a module goes by value, as what stands in `__main__` does.
"""

from __future__ import annotations

import sys

from ray import cloudpickle

from raypipe.plan import Plan


def ship_by_value(plan: Plan) -> None:
    """Mark the modules of a plan's steps, and of the functions and classes in their options."""
    for step in plan.graph.steps.values():
        for value in (step, *vars(step).values()):
            name = getattr(value, "__module__", None)
            module = sys.modules.get(name) if isinstance(name, str) and name != "__main__" else None
            if module is not None and not _is_importable(module.__name__):
                cloudpickle.register_pickle_by_value(module)


def _is_importable(module: str) -> bool:
    """Whether a fresh process with this one's path finds it; a loaded module's own word does not count."""
    package = module.partition(".")[0]
    return any(finder.find_spec(package, None) is not None for finder in sys.meta_path)
