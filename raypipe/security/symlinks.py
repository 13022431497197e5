"""Finds symbolic links in the folder of a run. Knows nothing of what is in the files.

A run makes none by itself. What a link leads to is elsewhere: whoever made the folder could have files of this user
written, or shown to others, that have nothing to do with the run.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from raypipe.errors import InputError, OutputError


def find_links(folder: Path, skipped: Sequence[str] = ()) -> Iterator[Path]:
    """The links in a folder, at any depth; what stands in it under the names `skipped` is not looked into."""
    for parent, folders, files in os.walk(folder):
        yield from (Path(parent, name) for name in (*folders, *files) if os.path.islink(os.path.join(parent, name)))
        if parent == str(folder):
            folders[:] = [name for name in folders if name not in skipped]


def check_no_links(folder: Path, skipped: Sequence[str] = ()) -> None:
    """Raises OutputError for a folder that is to be written to and holds a link."""
    for link in find_links(folder, skipped):
        problem = f"leads to {os.readlink(link)!r}, and no run makes such a link; nothing is written through it"
        raise OutputError(f"the link {link} {problem}: remove it, or name another folder with --out")


def check_no_outside_links(folder: Path) -> None:
    """Raises InputError for a folder that is to be copied or sent and holds a link that leads out of it."""
    real = os.path.realpath(folder)
    for link in find_links(folder):
        if not os.path.realpath(link).startswith(f"{real}/"):
            problem = f"leads out of the folder of the run ({os.readlink(link)!r})"
            raise InputError(f"the link {link} {problem}; put the file itself there, or remove the link")
