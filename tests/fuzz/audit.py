"""Watches what this process does while a run goes on: what is unpickled, fetched, started or written.

Python's audit hooks cannot be removed, so there is one for the whole process, which is deaf outside `watched`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_WRITING = frozenset("wax+")
_LOOPBACK = ("127.", "localhost", "::1", "0.0.0.0")
_FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "urllib.Request", "ctypes.dlopen")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.link", "os.symlink", "os.truncate")

_seen: list[str] | None = None
_places: tuple[str, ...] = ()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if event in _FORBIDDEN:
        _seen.append(f"{event}{arguments[:2]!r}"[:300])
    elif event == "socket.connect" and not _is_here(arguments[1]):
        _seen.append(f"{event} {arguments[1]!r}")
    elif (event == "open" and _is_writing(arguments)) or event in _CHANGES:
        path = arguments[0]
        if isinstance(path, str | bytes | Path) and not _is_allowed(path):
            _seen.append(f"{event} {path!r}")


def _is_here(address: Any) -> bool:
    return not isinstance(address, tuple) or str(address[0]).startswith(_LOOPBACK)


def _is_writing(arguments: tuple[Any, ...]) -> bool:
    mode, flags = arguments[1], arguments[2]
    if isinstance(mode, str):
        return bool(_WRITING & set(mode))
    return isinstance(flags, int) and bool(flags & 3)


def _is_allowed(path: str | bytes | Path) -> bool:
    name = path.decode(errors="replace") if isinstance(path, bytes) else str(path)
    # A name without a slash is one beside a folder that is open already, as in `rmtree`.
    return "/" not in name or name.startswith(_places) or "__pycache__" in name or name.startswith("/dev/")


sys.addaudithook(_note)


@contextmanager
def watched(*places: Path) -> Generator[None]:
    """Nothing is executed, nothing is fetched, nothing is written but below `places` while inside."""
    global _seen, _places
    before = _seen, _places
    _seen, _places = found, _ = [], (*map(str, places), _hypothesis_places())
    try:
        yield
    finally:
        _seen, _places = before
    assert not found, found


def _hypothesis_places() -> str:
    return str(Path(__file__).parents[2] / ".hypothesis")


def temporary_places() -> Sequence[Path]:
    """Where Python itself keeps files for a moment."""
    return [Path(tempfile.gettempdir())]
