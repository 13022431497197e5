"""Finds the files that a path, a folder or a glob stands for, names them and opens them.

Knows nothing of what is in them. A name leaves out where the files are stored, so that moving them changes no row's
identity.
"""

from __future__ import annotations

import glob
import gzip
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, cast

from raypipe.contracts.step import Unit
from raypipe.errors import InputError, nearest
from raypipe.security.permissions import Permissions
from raypipe.security.secrets import redact_address

KINDS = {
    ".parquet": "parquet",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".json": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
    ".md": "text",
}
"""How a file is read, by the suffix of its name."""
_COMPRESSIBLE = frozenset(("lines", "json", "csv", "tsv", "text"))
_HIDDEN = ("_", ".")


def kind_of(path: str) -> str:
    """How a file is read. Raises InputError for an unknown kind."""
    name = os.path.basename(path).lower()
    stem = name.removesuffix(".gz")
    end = os.path.splitext(stem)[1]
    kind = KINDS.get(end)
    if kind is None or (stem != name and kind not in _COMPRESSIBLE):
        known = [*KINDS, *(f"{known}.gz" for known, kind in KINDS.items() if kind in _COMPRESSIBLE)]
        hint = nearest(name[name.find(".") :], known)
        raise InputError(f"file {path!r} is of no known kind{hint}; convert or rename it")
    return kind


def open_file(path: str) -> IO[bytes]:
    """The file's bytes, decompressed. Raises OSError."""
    return cast(IO[bytes], gzip.open(path)) if path.lower().endswith(".gz") else open(path, "rb")


def locate(paths: Sequence[str], permissions: Permissions | None = None) -> list[Unit]:
    """One unit for each file, sorted by name. Raises InputError when a path stands for nothing.

    With `permissions`, raises SpecError for a file that may not be read, even where a link or a glob leads to it.
    """
    found: dict[str, str] = {}
    for path in paths:
        asked = None if permissions is None or path in permissions.trusted else permissions
        for root, file in _expand(os.path.expanduser(path)):
            if asked is not None:
                asked.check_file(file, f"path {path!r}")
            kind_of(file)
            found.setdefault(os.path.abspath(file), Path(os.path.relpath(file, root)).as_posix())
    _make_unique(found)
    return [Unit(name, location) for name, location in sorted((name, location) for location, name in found.items())]


def _make_unique(found: dict[str, str]) -> None:
    """Names files of one name under different roots from the folder that they have in common."""
    count = Counter(found.values())
    for name in [name for name, times in count.items() if times > 1]:
        equal = [location for location, known in found.items() if known == name]
        root = os.path.commonpath([os.path.dirname(location) for location in equal])
        for location in equal:
            found[location] = Path(os.path.relpath(location, root)).as_posix()


def _expand(path: str) -> Iterator[tuple[str, str]]:
    """Root and path of each file that a path stands for."""
    if "://" in path:
        shown = redact_address(path, every=True)
        raise InputError(f"path {shown!r} is an address; download the files and name their folder")
    if os.path.isdir(path):
        yield from _list_folder(path)
    elif os.path.isfile(path):
        yield os.path.dirname(path) or ".", path
    elif glob.has_magic(path):
        yield from _match(path)
    else:
        raise InputError(f"path {path!r} is not there{_suggest(path)}; it is looked up from {os.getcwd()!r}")


def _suggest(path: str) -> str:
    """A hint at the path that was probably meant."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f", nor is its folder {folder!r}"
    hint = nearest(os.path.basename(path), os.listdir(folder))
    return hint if hint.startswith(" (did") else ""


def _match(pattern: str) -> Iterator[tuple[str, str]]:
    """Root and path of each file that matches a glob; the root is the part of it without wildcards."""
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = os.path.join(*parts[:fixed]) if fixed else "."
    matches = sorted(glob.glob(pattern, recursive=True))
    files = [one for one in matches if os.path.isfile(one) and not os.path.basename(one).startswith(_HIDDEN)]
    if not files:
        raise InputError(f"no file matches {pattern!r}; check the pattern, `**` stands for folders of any depth")
    yield from ((root, file) for file in files)


def _list_folder(folder: str) -> Iterator[tuple[str, str]]:
    """Root and path of each file of a known kind in a folder, or in the dataset of a run folder."""
    data = os.path.join(folder, "data")
    if os.path.isfile(os.path.join(folder, "manifest.json")) and os.path.isdir(data):
        yield from _list_folder(_only_dataset(data))
        return
    files = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if not name.startswith(_HIDDEN)]
    known = [file for file in files if os.path.isfile(file) and _is_known(file)]
    if not known:
        pattern = os.path.join(folder, "**", "*.parquet")
        hint = f"; to read the folders in it write {pattern!r}" if any(map(os.path.isdir, files)) else ""
        raise InputError(f"folder {folder!r} has no file of a known kind ({', '.join(KINDS)}){hint}")
    # Text beside tables describes them.
    tables = [file for file in known if kind_of(file) != "text"]
    yield from ((folder, file) for file in tables or known)


def _only_dataset(data: str) -> str:
    """The one dataset of a run folder."""
    leaves = [name for name in sorted(os.listdir(data)) if not name.startswith(_HIDDEN)]
    if len(leaves) != 1:
        listed = ", ".join(repr(os.path.join(data, leaf)) for leaf in leaves) or "none"
        problem = f"has {len(leaves)} datasets ({listed}); name the one to read"
        raise InputError(f"run folder {os.path.dirname(data)!r} {problem}")
    return os.path.join(data, leaves[0])


def _is_known(file: str) -> bool:
    try:
        kind_of(file)
    except InputError:
        return False
    return True
