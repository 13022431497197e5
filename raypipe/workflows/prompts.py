"""Reads prompts, from a file beside the program that calls or as text, and fills in their placeholders `{{name}}`.

Knows nothing of the values that are filled in. Nothing but a placeholder has a meaning in a prompt, so it may show JSON
or code. `calling_folder` walks up the call stack to find the program.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

from raypipe.errors import SpecError

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
COMPUTED = re.compile(r"\{\{\s*(\w+)\s*[|.\[(][^{}]*\}\}")
"""What looks like a placeholder but computes something, such as `{{name | upper}}`, and the name it begins with."""
_SUFFIX = ".md"
_OURS = "raypipe."


def placeholders(text: str) -> tuple[str, ...]:
    """The names of its placeholders, each once."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(text)))


def fill(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders replaced; placeholders in a value stay as they are."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def get_abs_path(path: str | Path) -> str:
    """The absolute path of a file beside the program that calls."""
    return str(calling_folder() / path)


def calling_folder() -> Path:
    """The folder of the program that called this package; where it has no file, the working directory."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(_OURS):
        frame = frame.f_back
    file = Path(frame.f_code.co_filename if frame is not None else "")
    return file.resolve().parent if file.is_file() else Path.cwd()


def read_prompt(path: str | Path, folder: Path) -> str:
    """The prompt in a `.md` file, relative to `folder`; a `path` with placeholders that is no `.md` file is the prompt.

    Raises SpecError when there is none.
    """
    file = folder / path
    problem = f"there is no prompt file {str(file)!r}"
    try:
        if file.suffix == _SUFFIX and file.is_file():
            return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        problem = f"the prompt file {str(file)!r} cannot be read: {error}"
    else:
        if file.suffix != _SUFFIX:
            if placeholders(str(path)):
                return str(path)
            problem = f"path={str(path)!r} is not a {_SUFFIX} file; name one that ends in {_SUFFIX}, or write prompt=…"
        elif not Path(path).is_absolute():
            problem += "; a relative path starts from the folder of the program that calls"
    raise SpecError.of("path", problem)
