"""I find the files that a path, a folder or a glob stands for, name them and open them.

I do not know what is in them. A name leaves out where the files are stored, so that moving them changes no row's
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
"""How a file is read, by the end of its name."""
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
        raise InputError(
            f"file {path!r} is of no known kind{nearest(name[name.find('.') :], known)}; convert or rename it"
        )
    return kind


def opened(path: str) -> IO[bytes]:
    """The file's bytes, unpacked. Raises OSError."""
    return cast(IO[bytes], gzip.open(path)) if path.lower().endswith(".gz") else open(path, "rb")


def locate(paths: Sequence[str], permissions: Permissions | None = None) -> list[Unit]:
    """One unit for each file, sorted by name. Raises InputError when a path stands for nothing.

    With `permissions`, raises SpecError for a file that may not be read, whatever leads to it.
    """
    found: dict[str, str] = {}
    for path in paths:
        asked = None if permissions is None or path in permissions.trusted else permissions
        for root, file in _files(os.path.expanduser(path)):
            if asked is not None:
                asked.check_file(file, f"path {path!r}")
            kind_of(file)
            found.setdefault(os.path.abspath(file), Path(os.path.relpath(file, root)).as_posix())
    _tell_apart(found)
    return [Unit(name, location) for name, location in sorted((name, location) for location, name in found.items())]


def _tell_apart(found: dict[str, str]) -> None:
    """Files of one name under different roots are named from the folder they have in common."""
    count = Counter(found.values())
    for name in [name for name, times in count.items() if times > 1]:
        equal = [location for location, known in found.items() if known == name]
        root = os.path.commonpath([os.path.dirname(location) for location in equal])
        for location in equal:
            found[location] = Path(os.path.relpath(location, root)).as_posix()


def _files(path: str) -> Iterator[tuple[str, str]]:
    """Root and path of each file."""
    if "://" in path:
        raise InputError(
            f"path {redact_address(path, every=True)!r} is an address; download the files and name their folder"
        )
    if os.path.isdir(path):
        yield from _in_folder(path)
    elif os.path.isfile(path):
        yield os.path.dirname(path) or ".", path
    elif glob.has_magic(path):
        yield from _matching(path)
    else:
        raise InputError(f"path {path!r} is not there{_similar(path)}; it is looked up from {os.getcwd()!r}")


def _similar(path: str) -> str:
    """A hint at what the path may have meant."""
    folder = os.path.dirname(path) or "."
    if not os.path.isdir(folder):
        return f", nor is its folder {folder!r}"
    hint = nearest(os.path.basename(path), os.listdir(folder))
    return hint if hint.startswith(" (did") else ""


def _matching(pattern: str) -> Iterator[tuple[str, str]]:
    parts = Path(pattern).parts
    fixed = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    root = os.path.join(*parts[:fixed]) if fixed else "."
    matches = sorted(glob.glob(pattern, recursive=True))
    files = [match for match in matches if os.path.isfile(match) and _is_shown(os.path.basename(match))]
    if not files:
        raise InputError(f"no file matches {pattern!r}; check the pattern, `**` stands for folders of any depth")
    yield from ((root, file) for file in files)


def _in_folder(folder: str) -> Iterator[tuple[str, str]]:
    data = os.path.join(folder, "data")
    if os.path.isfile(os.path.join(folder, "manifest.json")) and os.path.isdir(data):
        yield from _in_folder(_only_dataset(data))
        return
    files = [os.path.join(folder, name) for name in sorted(os.listdir(folder)) if _is_shown(name)]
    known = [file for file in files if os.path.isfile(file) and _is_known(file)]
    if not known:
        pattern = os.path.join(folder, "**", "*.parquet")
        hint = f"; to read the folders in it write {pattern!r}" if any(map(os.path.isdir, files)) else ""
        raise InputError(f"folder {folder!r} has no file of a known kind ({', '.join(KINDS)}){hint}")
    # Beside tables a text is what is said about them.
    tables = [file for file in known if kind_of(file) != "text"]
    yield from ((folder, file) for file in tables or known)


def _only_dataset(data: str) -> str:
    """The one dataset of a run folder."""
    leaves = [name for name in sorted(os.listdir(data)) if _is_shown(name)]
    if len(leaves) != 1:
        listed = ", ".join(repr(os.path.join(data, leaf)) for leaf in leaves) or "none"
        raise InputError(
            f"run folder {os.path.dirname(data)!r} has {len(leaves)} datasets ({listed}); name the one to read"
        )
    return os.path.join(data, leaves[0])


def _is_shown(name: str) -> bool:
    return not name.startswith(_HIDDEN)


def _is_known(file: str) -> bool:
    try:
        kind_of(file)
    except InputError:
        return False
    return True
