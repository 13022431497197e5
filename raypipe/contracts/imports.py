"""Imports what a dotted path names. Knows nothing of what is done with it."""

from __future__ import annotations

import re
import sys
from typing import Any

from raypipe.errors import SpecError
from raypipe.security.permissions import current_permissions

FROM_FILE = "raypipe_spec_"
"""How the names of modules begin that were loaded from a file by its path, for the pipeline in it."""


def imported(path: str) -> Any:
    """The object that a dotted path names: `package.module:name` or `package.module.name`.

    Raises SpecError when there is none, or when it may not be imported.
    """
    if (permissions := current_permissions()) is not None:
        try:
            permissions.check_import(path)
        except SpecError:
            if not path.startswith(FROM_FILE):
                raise
            problem = "was defined in a Python file, which is not part of this one; name the Python file itself"
            raise SpecError.of(f"dotted path {path!r}", problem) from None
    return found_at(path)


def imported_function(path: str) -> Any:
    """`imported`, where only something that can be called will do. Raises SpecError."""
    found = imported(path)
    if not callable(found):
        problem = f"is a {type(found).__name__}, which cannot be called; name a function"
        raise SpecError.of(f"dotted path {path!r}", problem)
    return found


def is_there(function: Any) -> Any:
    """What was given for a function, if it can be called: an option's validator. Raises SpecError."""
    if isinstance(function, str):
        imported_function(function)
    return function


def found_at(path: str) -> Any:
    """`imported`, for a path that is ours."""
    import importlib

    module, colon, name = path.partition(":")
    if not colon:
        module, _, name = path.rpartition(".")
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, ValueError) as error:
        way = "install it, or set PYTHONPATH, and " if isinstance(error, ModuleNotFoundError) else ""
        problem = f"nothing to import there ({error}); {way}write package.module:name"
        raise SpecError.of(f"dotted path {path!r}", problem) from None
    except (ArithmeticError, LookupError, NameError, OSError, RuntimeError, SyntaxError, TypeError) as error:
        problem = f"cannot be imported ({type(error).__name__}: {error}); mend the module"
        raise SpecError.of(f"dotted path {path!r}", problem) from None
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
