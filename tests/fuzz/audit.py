"""Watches what this process does while a run goes on: what is unpickled, fetched, started or written.

Python's audit hooks cannot be removed, so there is one for the whole process, which is deaf outside `watched`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

_WRITING = frozenset("wax+")
_LOOPBACK = ("127.", "localhost", "::1", "0.0.0.0")
_FORBIDDEN = ("pickle.find_class", "os.system", "subprocess.Popen", "os.exec", "urllib.Request", "ctypes.dlopen")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "shutil.rmtree", "os.link", "os.symlink", "os.truncate")

_ROOTS_OF_RAY = frozenset({"ray", "raypipe", "pyarrow", "inspect", "typing"})
"""Of what Ray unpickles in its driver: its messages, and the actors that this process has pickled itself."""

_seen: list[str] | None = None
_is_ray_used = False
_places: tuple[str, ...] = ()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if _seen is None:
        return
    if _is_ray_used and event in ("pickle.find_class", "socket.connect") and _is_of_ray(event, arguments):
        return
    if event == "ctypes.dlopen" and arguments[0] is None:
        return  # what the process has loaded already
    if event in _FORBIDDEN:
        _seen.append(f"{event}{arguments[:2]!r}"[:300])
    elif event == "socket.connect" and not _is_here(arguments[1]):
        _seen.append(f"{event} {arguments[1]!r}")
    elif (event == "open" and _is_writing(arguments)) or event in _CHANGES:
        path = arguments[0]
        if isinstance(path, str | bytes | Path) and not _is_allowed(path):
            _seen.append(f"{event} {path!r}")


def _is_of_ray(event: str, arguments: tuple[Any, ...]) -> bool:
    """Whether Ray speaks with itself: to this machine, in classes of its own and of the package."""
    if event == "socket.connect":
        return _is_here(arguments[1]) or str(arguments[1][0]) in _addresses_of_this_machine()
    module, name = str(arguments[0]), str(arguments[1])
    return module.partition(".")[0] in _ROOTS_OF_RAY or (module, name) == ("builtins", "type")


@lru_cache
def _addresses_of_this_machine() -> frozenset[str]:
    return frozenset(one.address for found in psutil.net_if_addrs().values() for one in found)


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
def watched(*places: Path, engine: str = "local") -> Generator[None]:
    """Nothing is executed, nothing is fetched, nothing is written but below `places` while inside.

    With Ray as the engine, what Ray itself does in this process to speak with its workers is left out.
    """
    global _seen, _places, _is_ray_used
    before = _seen, _places, _is_ray_used
    found: list[str] = []
    _seen, _places, _is_ray_used = found, (*map(str, places), _hypothesis_places()), engine == "ray"
    try:
        yield
    finally:
        _seen, _places, _is_ray_used = before
    assert not found, found


def _hypothesis_places() -> str:
    return str(Path(__file__).parents[2] / ".hypothesis")


def temporary_places() -> Sequence[Path]:
    """Where Python itself keeps files for a moment."""
    return [Path(tempfile.gettempdir())]
