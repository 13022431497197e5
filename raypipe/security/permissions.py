"""Decides what a pipeline file may reach: modules, files, hosts and keys. Knows no steps and no models.

Otherwise whoever wrote a file would choose what is executed, read and sent. The command line and Python programs may
name anything: nothing is checked outside of `permitted`.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypedDict, cast
from urllib.parse import urlsplit

from raypipe.errors import SpecError, nearest
from raypipe.security.dataset_notes import NOTES, find_outside_reference
from raypipe.security.secrets import redact_address

ALLOWED_KEYS = "RAYPIPE_ALLOW_KEYS"
"""Environment variable with pairs like those of `--allow-key`, separated by commas."""
HUB = "https://huggingface.co"
OF_ENGINE = "vllm:"
"""Begins the names of options of vLLM's engine among the imports that are allowed."""
LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""Names of this machine that no resolver decides."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one file may reach."""

    imports: tuple[str, ...] = ()
    """Modules that it may import from, and `vllm:OPTION` for options of vLLM's engine that run code."""
    folders: tuple[str, ...] = ()
    """Folders that it may read below, resolved, and addresses such as `s3://bucket/folder`."""
    keys: tuple[tuple[str, str], ...] = ()
    """Environment variables with the hosts that their values may be sent to."""
    hosts: tuple[str, ...] | None = None
    """Hosts that it may name; `None`: any."""
    trusted: frozenset[str] = frozenset()
    """Texts that stand on the command line."""

    def trusting(self, *values: Any) -> Permissions:
        """The same permissions, and these values of the user's own."""
        return replace(self, trusted=self.trusted | frozenset(text for value in values for text in _texts(value)))

    def check_import(self, path: str) -> None:
        """Raises SpecError when nothing may be imported from a dotted path."""
        module = path.partition(":")[0] if ":" in path else path.rpartition(".")[0]
        if not any(module == one or module.startswith(f"{one}.") for one in self.imports):
            way = f"if you trust it, allow {module!r} with --allow-import {module}"
            raise SpecError.of(f"dotted path {path!r}", f"a file may not import what it likes; {way}")

    def check_file(self, named: str | os.PathLike[str], where: str, base: str | None = None) -> None:
        """Raises SpecError when a file, a folder or a pattern of files may not be read; relative ones are of `base`."""
        text = os.fspath(named)
        if text in self.trusted:
            return
        text = text if base is None or is_address(text) else os.path.join(base, text)
        folder = folder_to_allow(text)
        real = text if is_address(text) else os.path.realpath(_fixed(os.path.expanduser(text)))
        if not any(real == one or real.startswith(f"{one.rstrip('/')}/") for one in self.folders):
            kept = "its own folder" if self.hosts is None else "its own folder (one from a URL has none)"
            leads = "" if is_address(text) or real == os.path.abspath(text) else f", which leads to {real!r},"
            problem = f"a file may only name what lies in {kept}, and {redact_address(text)!r}{leads} does not"
            raise SpecError.of(where, f"{problem}; if you trust it, add --allow-files {redact_address(folder)}")

    def check_folder(self, named: str, where: str) -> None:
        """Raises SpecError when a folder, or what is in it and what that leads to, may not be read.

        A README may say which files are a dataset's, and a saved one notes its own: they are to be in the folder.
        """
        self.check_file(named, where)
        if named in self.trusted or is_address(named):
            return
        for parent, folders, names in os.walk(os.path.expanduser(named)):
            for name in (*folders, *names):
                self.check_file(os.path.join(parent, name), where)
            for name in (one for one in names if one in NOTES):
                problem = find_outside_reference(os.path.join(parent, name))
                if problem is not None:
                    problem = f"{os.path.join(parent, name)!r} {problem}"
                    raise SpecError.of(where, f"{problem}; name the files with LoadDataFromFiles")

    def check_host(self, address: str, where: str) -> None:
        """Raises SpecError when nothing may be fetched from an address, or sent to it."""
        host = host_of(address)
        if self.hosts is None or address in self.trusted or host in self.hosts:
            return
        problem = f"a file that is not your own may not name the host {host!r}"
        raise SpecError.of(where, f"{problem}; if you trust it, add --allow-host {host}")

    def check_key(self, name: str, address: str, own: Sequence[str], where: str) -> None:
        """Raises SpecError when the value of the environment variable `name` may not be sent to an address.

        `own`: hosts of the provider that the key is for, or patterns such as `*.host`.
        """
        host = host_of(address)
        if host in LOOPBACK or address in self.trusted or any(fnmatchcase(host, one) for one in own):
            return
        if (name, host) in (*self.keys, *parse_key_pairs(os.environ.get(ALLOWED_KEYS, "").split(","))):
            return
        problem = f"a file may not send the value of {name} to the host {host!r}"
        way = f"add --allow-key {name}={host}, or set {ALLOWED_KEYS}={name}={host}"
        raise SpecError.of(where, f"{problem}; if that is where it belongs, {way}")

    def check_trusted(self, value: Any, where: str) -> None:
        """Raises SpecError unless all texts in a value stand on the command line."""
        if not set(_texts(value)) <= self.trusted:
            raise SpecError.of(
                where, "a file may not say how a store is reached; give it on the command line with --set"
            )

    def check_engine_option(self, name: str, where: str) -> None:
        """Raises SpecError when an option of vLLM's engine may not be set that runs code or opens doors."""
        if f"{OF_ENGINE}{name}" not in self.imports:
            problem = f"a file may not set {name!r}, which makes vLLM run code, read files or open connections"
            raise SpecError.of(where, f"{problem}; if you trust it, add --allow-import {OF_ENGINE}{name}")


class Allowances(TypedDict, total=False):
    """What a user allows a file beside imports."""

    allow_files: Sequence[str | os.PathLike[str]]
    """Folders (and `s3://…`) that it may read below, beside its own."""
    allow_keys: Sequence[str]
    """`NAME=HOST`: environment variables with the hosts that their values may be sent to."""
    allow_hosts: Sequence[str]
    """Hosts that a file from a URL may name."""


def check_allowances(allowed: Mapping[str, object]) -> None:
    """Raises SpecError for an unknown word, and for a text in the place of a list: its letters would be allowed."""
    known = ("allow_import", *Allowances.__annotations__)
    for name, given in allowed.items():
        if name not in known:
            raise SpecError.of(f"option {name!r}", f"is unknown{nearest(name, known)}")
        if isinstance(given, str | os.PathLike):
            raise SpecError.of(
                f"option {name!r}", f"is a list, got {os.fspath(given)!r}; write {name}=[{os.fspath(given)!r}]"
            )


_current: ContextVar[Permissions | None] = ContextVar("permissions", default=None)


@contextmanager
def permitted(permissions: Permissions | None) -> Generator[None]:
    """Inside, what is made is what a file says; `None`: what a program says, or the user."""
    token = _current.set(permissions)
    try:
        yield
    finally:
        _current.reset(token)


def current_permissions() -> Permissions | None:
    """What may be reached by what is made now; `None`: everything."""
    return _current.get()


@dataclass(frozen=True, slots=True)
class Reach:
    """What a thing may reach later, as it was when it was made. Things that differ in it alone are equal."""

    permissions: Permissions | None = field(default_factory=current_permissions, compare=False)


def permissions_of(thing: object) -> Permissions | None:
    """What a thing may reach that a file described; `None`: everything."""
    return getattr(thing, "_reach", Reach(None)).permissions


def check_file(named: str | os.PathLike[str], where: str, base: str | None = None) -> None:
    """`Permissions.check_file`, of what is made now."""
    if (permissions := current_permissions()) is not None:
        permissions.check_file(named, where, base)


def resolve_folders(folders: Iterable[str | os.PathLike[str]]) -> tuple[str, ...]:
    """Folders that a user allows, as `Permissions` holds them."""
    texts = [os.fspath(folder) for folder in folders]
    return tuple(text if is_address(text) else os.path.realpath(os.path.expanduser(text)) for text in texts)


def folder_to_allow(text: str) -> str:
    """What `--allow-files` has to say so that a path, a pattern or an address may be read."""
    if is_address(text):
        return text.rpartition("/")[0]
    real = os.path.realpath(_fixed(os.path.expanduser(text)))
    return real if os.path.isdir(real) else os.path.dirname(real)


def parse_key_pairs(given: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """Pairs written `NAME=HOST`. Raises SpecError for what is not one."""
    pairs: list[tuple[str, str]] = []
    for text in filter(None, map(str.strip, given)):
        name, equals, host = text.partition("=")
        host = host_of(host) if "//" in host else host.lower()
        if not (equals and name.isidentifier() and host and "/" not in host):
            raise SpecError.of("--allow-key", "is not written NAME=HOST, such as MY_KEY=llm.example.com")
        pairs.append((name, host))
    return tuple(pairs)


def is_path(name: str) -> bool:
    """Whether what may be a name on the Hugging Face hub is something else: a path, or an address."""
    return is_address(name) or name.startswith(("/", ".", "~")) or name.count("/") > 1 or os.path.exists(name)


def is_address(text: str) -> bool:
    """Whether a text names something in a store or on the web, and not a path.

    A chain of file systems, such as `zip://rows.csv::rows.zip`, is one, too.
    """
    return "://" in text or "::" in text


def host_of(address: str) -> str:
    """The host of an address, without its port; empty where there is none."""
    try:
        return (urlsplit(address).hostname or "").lower().rstrip(".")
    except ValueError:
        return ""


def _fixed(path: str) -> str:
    """The part of a path before the first sign of a pattern; all of it where such a file is there."""
    if not glob.has_magic(path) or os.path.lexists(path):
        return path
    parts = Path(path).parts
    fixed = next(number for number, part in enumerate(parts) if glob.has_magic(part))
    # What `..` behind a pattern leads to is not known here: each file that is found is looked at as well.
    return os.path.join(*parts[:fixed]) if fixed else "."


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in cast("Mapping[Any, Any]", value).values():
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in cast("Sequence[Any]", value):
            yield from _texts(item)
