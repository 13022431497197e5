"""Lets steps travel to workers that cannot import their module, because it was loaded from a file by its path.

Knows nothing of what the steps do. Everything of such a module goes by value, as what stands in `__main__` does, and
so do the modules beside it, which only the driver's path finds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from types import ModuleType

from ray import cloudpickle

from raypipe.contracts.imports import FROM_FILE
from raypipe.plan.plan import Plan


def ship_by_value(plan: Plan) -> None:
    """Mark the modules of a plan's steps, and of the functions and classes in their options."""
    folders = {_folder(module) for name, module in sys.modules.items() if name.startswith(FROM_FILE)}
    for module in _modules(plan):
        # Whether a fresh process with this one's path finds it; a loaded module's own word does not count.
        package = module.__name__.partition(".")[0]
        is_importable = any(finder.find_spec(package, None) is not None for finder in sys.meta_path)
        if module.__name__ != "__main__" and not is_importable:
            cloudpickle.register_pickle_by_value(module)
            folders.add(_folder(module))
    for module in list(sys.modules.values()) if folders else ():
        if _folder(module) in folders and module.__name__ != "__main__":
            cloudpickle.register_pickle_by_value(module)


def _modules(plan: Plan) -> Iterator[ModuleType]:
    for step in plan.graph.steps.values():
        for value in (step, *vars(step).values()):
            name = getattr(value, "__module__", None)
            if isinstance(name, str) and name in sys.modules:
                yield sys.modules[name]


def _folder(module: ModuleType) -> str:
    return os.path.dirname(getattr(module, "__file__", None) or "")
