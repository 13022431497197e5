"""I read prompts: from a file beside the program that asks, and with `{{name}}` for what is filled in.

I do not know what is filled in. Nothing else in a prompt has a meaning, so it may show JSON or code.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from pathlib import Path

from raypipe.errors import SpecError

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_COMPUTED = re.compile(r"\{\{\s*(\w+)\s*[|.\[(][^{}]*\}\}")
_SUFFIX = ".md"
_OURS = "raypipe."


def placeholders(text: str) -> tuple[str, ...]:
    """The names of what is filled in, each once."""
    return tuple(dict.fromkeys(_PLACEHOLDER.findall(text)))


def computed(text: str) -> dict[str, str]:
    """What looks like a placeholder but computes something, by the name it begins with."""
    return {found[1]: found[0] for found in _COMPUTED.finditer(text)}


def filled(text: str, values: Mapping[str, str]) -> str:
    """The text with its placeholders replaced; what is put in is not read again."""
    return _PLACEHOLDER.sub(lambda found: values[found[1]], text)


def get_abs_path(path: str | Path) -> str:
    """The path of a file that stands beside the program that calls."""
    return str(calling_folder() / path)


def calling_folder() -> Path:
    """The folder of the program that called into this package; where it has no file, the working directory."""
    frame = inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(_OURS):
        frame = frame.f_back
    file = Path(frame.f_code.co_filename if frame is not None else "")
    return file.resolve().parent if file.is_file() else Path.cwd()


def read_prompt(path: str | Path, folder: Path) -> str:
    """The prompt in a `.md` file, relative to `folder`; a path that is no file but has placeholders is the prompt.

    Raises SpecError when there is none.
    """
    file = folder / path
    try:
        if file.suffix == _SUFFIX and file.is_file():
            return file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError) as error:
        raise _unreadable(f"the prompt file {str(file)!r} cannot be read: {error}") from None
    if placeholders(str(path)) and file.suffix != _SUFFIX:
        return str(path)
    if file.suffix != _SUFFIX:
        problem = f"path={str(path)!r} is no {_SUFFIX} file; name one that ends in {_SUFFIX}, or write prompt=…"
        raise _unreadable(problem)
    beside = "" if Path(path).is_absolute() else "; a relative path starts from the folder of the program that calls"
    raise _unreadable(f"there is no prompt file {str(file)!r}{beside}")


def _unreadable(problem: str) -> SpecError:
    return SpecError.of("path", problem)
