"""I find what a name stands for, and name what has none."""

from __future__ import annotations

import re
import sys
from typing import Any

from raypipe.errors import SpecError, Violation


def imported(path: str) -> Any:
    """The object that a dotted path names: `package.module:name` or `package.module.name`.

    Raises SpecError when there is none.
    """
    import importlib

    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        problem = f"nothing to import there ({error}); write package.module:name"
        raise SpecError(violations=[Violation(f"dotted path {path!r}", problem)]) from None
    except (ArithmeticError, LookupError, NameError, OSError, RuntimeError, SyntaxError, TypeError) as error:
        problem = f"cannot be imported ({type(error).__name__}: {error}); mend the module"
        raise SpecError(violations=[Violation(f"dotted path {path!r}", problem)]) from None
    return found


def snake_case(name: str) -> str:
    """`TextGeneration` → `text_generation`."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def is_importable(kind: type) -> bool:
    """Whether another process finds a class under its own name."""
    found: Any = sys.modules.get(kind.__module__) if kind.__module__ != "__main__" else None
    for part in kind.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is kind
