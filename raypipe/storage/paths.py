"""Reads and writes files on this machine and in object stores, whole or not at all. Knows nothing of what is in them.

A path on this machine is a plain `Path`; one in a store is a `RemotePath`, which has as much of the interface of `Path`
as runs need. `pyarrow.fs` is loaded only when a path in a store is used. Keys come from the environment, as those of
the stores' own tools do, and are neither kept nor shown.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from functools import lru_cache
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from raypipe.concurrency.background import start_thread
from raypipe.concurrency.interruption import checkpoint
from raypipe.concurrency.threads import DaemonThreads
from raypipe.errors import InfrastructureError, InputError, OutputError, SpecError
from raypipe.security.secrets import redact_address
from raypipe.storage.outages import outlasting

T = TypeVar("T")
R = TypeVar("R")

SCHEMES = ("s3", "gs")
_REACH_S = 30.0
"""How long a store may take to answer at all; after that a run does not begin."""
_LOOK_EVERY_S = 0.1
_CONNECT_S, _REQUEST_S, _TRIES = 5.0, 30.0, 4
_AT_ONCE = 16
_CHUNK_BYTES = 8 << 20
_MOST_COPIED_BYTES = 5_000_000_000
"""S3 copies no larger object in one request."""
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, slots=True, order=True)
class RemotePath:
    """A file or folder in an object store; folders need not be made. Raises OSError as a `Path` does.

    Pickled as its scheme and path; keys and endpoint are read from the environment where it is used.
    """

    scheme: str
    path: str
    """The bucket and what is in it, without a slash at the ends."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.scheme, f"{self.path}/{name}")

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """The ending of the name, with its dot; empty where it has none."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder that it is in."""
        return RemotePath(self.scheme, self.path.rpartition("/")[0])

    @property
    def store(self) -> Any:
        """The pyarrow file system of its store."""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        return _store(self.scheme, self.path.partition("/")[0], s3_endpoint(), region)

    def with_name(self, name: str) -> RemotePath:
        """The path beside it with another name."""
        return self.parent / name

    def absolute(self) -> RemotePath:
        """The path itself: in a store, all are absolute."""
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Does nothing: a folder is there as soon as there is something in it."""

    def exists(self) -> bool:
        """Whether there is a file with this name, or anything under it."""
        return outlasting(lambda: bool(self.store.get_file_info([self.path])[0].type), self)

    def glob(self, pattern: str, *, is_deep: bool = False) -> Iterator[Self]:
        """The files directly in this folder whose names match; `is_deep`: also those in folders under it."""
        from pyarrow import fs

        within = fs.FileSelector(self.path, allow_not_found=True, recursive=is_deep)
        infos = outlasting(lambda: self.store.get_file_info(within), self)
        files = sorted(type(self)(self.scheme, info.path) for info in infos if info.is_file)
        return (file for file in files if fnmatchcase(file.name, pattern))

    def rglob(self, pattern: str) -> Iterator[Self]:
        """The files in this folder and in those under it whose names match."""
        return self.glob(pattern, is_deep=True)

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        """The rest of the path below `folder`. Raises ValueError when it is not below."""
        return PurePosixPath(self.path).relative_to(folder.path)

    def open(self, mode: str) -> Any:
        """A file to read (`rb`), fetched as a whole, or to write (`wb`), sent when it is closed; for a `with` block."""
        return BytesIO(self.read_bytes()) if mode == "rb" else _Upload(self)

    def read_bytes(self) -> bytes:
        """The whole content. Raises FileNotFoundError, OSError."""

        def read() -> bytes:
            with self.store.open_input_file(self.path) as file:
                return file.read()

        return outlasting(read, self)

    def read_text(self) -> str:
        """The whole content, which is UTF-8."""
        return self.read_bytes().decode()

    def write_bytes(self, content: Any) -> None:
        """Write it whole: readers see the old content or the new."""

        def write() -> None:
            with self.store.open_output_stream(self.path) as file:
                file.write(content)

        outlasting(write, self)

    def unlink(self, missing_ok: bool = False) -> None:
        """Remove the file. Raises FileNotFoundError unless `missing_ok`."""
        try:
            outlasting(lambda: self.store.delete_file(self.path), self)
        except FileNotFoundError:
            if not missing_ok:
                raise


class _Upload:
    """A file that is kept on this machine until it is whole, so that it can be sent again."""

    def __init__(self, path: RemotePath) -> None:
        self._path = path
        self._file = TemporaryFile()  # noqa: SIM115 - closed in `__exit__`
        self.write, self.flush = self._file.write, self._file.flush

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._file:
            if kind is None:
                outlasting(self._send, self._path)

    def _send(self) -> None:
        self._file.seek(0)
        with self._path.store.open_output_stream(self._path.path) as sink:
            while chunk := self._file.read(_CHUNK_BYTES):
                checkpoint()
                sink.write(chunk)


AnyPath = Path | RemotePath
P = TypeVar("P", Path, RemotePath)


def parse_path(named: str | Path | RemotePath) -> AnyPath:
    """The path that a user names, on this machine or in a store. Raises SpecError for what is neither."""
    if isinstance(named, RemotePath):
        return named
    text = str(named)
    if isinstance(named, Path) and re.match(r"(s3|gs|file):/", text):
        shown = redact_address(text.replace(":/", "://", 1), every=True)
        raise SpecError.of(
            f"the path {shown}", "is the URI of a folder made a Path, which takes a slash away; give it as a text"
        )
    if "://" not in text:
        return Path(named)
    parts = urlsplit(text)
    where = f"the path {redact_address(text, every=True)}"
    if parts.scheme == "file":
        return Path(parts.path)
    if parts.scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        problem = f"is an address of an unknown kind (allowed: a path, file://, {allowed})"
        raise SpecError.of(where, f"{problem}; mount it and give its path, or use one of these")
    if "@" in parts.netloc or parts.query:
        problem = "has keys or options in it, which would be written down with it"
        raise SpecError.of(
            where, f"{problem}; set them in the environment, such as AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL"
        )
    path = f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
    if not parts.netloc or "//" in path or path == parts.netloc:
        raise SpecError.of(where, f"is not the folder of a bucket; write {parts.scheme}://bucket/folder")
    return RemotePath(parts.scheme, path)


@lru_cache
def _store(scheme: str, bucket: str, endpoint: str, region: str) -> Any:
    from pyarrow import fs

    if scheme == "gs":
        return fs.GcsFileSystem(retry_time_limit=timedelta(seconds=_REACH_S))
    if not region:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    scheme, _, host = endpoint.rstrip("/").rpartition("://")
    return fs.S3FileSystem(
        region=region,
        scheme=scheme or "https",
        endpoint_override=host or None,
        connect_timeout=_CONNECT_S,
        request_timeout=_REQUEST_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=_TRIES),
    )


def address_identity(path: RemotePath) -> str:
    """Text that identifies a path: the same on every machine, another one for another endpoint."""
    return f"{path} {s3_endpoint() if path.scheme == 's3' else ''}"


def s3_endpoint() -> str:
    """The address of an S3 store that is not Amazon's, from the environment; empty for Amazon's.

    As Amazon's own tools do, `AWS_ENDPOINT_URL_S3` goes before `AWS_ENDPOINT_URL`.
    """
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


def check_reachable(path: AnyPath) -> None:
    """Return when the store of a path answers, within half a minute; a path on this machine is not checked.

    Raises OutputError when there is no such bucket or it may not be read, InfrastructureError when nothing answers.
    """
    if isinstance(path, Path):
        return
    answers: list[OSError | bool] = []
    bucket = path.path.partition("/")[0]

    def ask() -> None:
        try:
            answers.append(bool(path.store.get_file_info([bucket])[0].type))
        except OSError as error:
            answers.append(error)

    asking = start_thread(ask, "the check of a store", lambda error: answers.append(OSError(str(error))))
    deadline = time.monotonic() + _REACH_S
    while asking.is_alive() and time.monotonic() < deadline:
        asking.join(_LOOK_EVERY_S)
        checkpoint()
    answer = answers[0] if answers else TimeoutError(f"no answer within {_REACH_S:.0f} s")
    if answer is False:
        raise OutputError(f"{path} cannot be used: there is no bucket {bucket!r}; make it, or name another one")
    if isinstance(answer, OSError):
        kind = InfrastructureError if "NETWORK" in str(answer) or isinstance(answer, TimeoutError) else OutputError
        raise kind(f"{path} cannot be used: {explain_os_error(answer)}")


_REASONS = (
    ("NO_SUCH_BUCKET", "there is no such bucket; make it, or name another one"),
    ("ACCESS_DENIED", "access is denied; see that the keys in the environment are those of one who may write there"),
    ("HTTP status 403", "access is denied; see that the keys in the environment are those of one who may write there"),
    ("INVALID_ACCESS_KEY_ID", "the key in AWS_ACCESS_KEY_ID is not known there"),
    ("SIGNATURE_DOES_NOT_MATCH", "the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do not belong together"),
    ("NETWORK_CONNECTION", "the store cannot be reached; see that AWS_ENDPOINT_URL, if it is set, is right"),
)


def explain_os_error(error: OSError) -> str:
    """Why something could not be read or written, as a message without keys."""
    text = error.strerror or str(error)
    for sign, explanation in _REASONS:
        if sign in text:
            return explanation
    for name in _SECRETS:
        if secret := os.environ.get(name):
            text = text.replace(secret, "***")
    return re.sub(r" \(Request ID: .*?\)", "", " ".join(text.split()))


def open_parquet_at(path: AnyPath | str) -> Any:
    """The Parquet file at a path, opened: a `ParquetFile`, in which no column has an extension type."""
    from raypipe.security.untrusted_tables import open_parquet

    path = parse_path(path)
    if isinstance(path, Path):
        return open_parquet(path, pre_buffer=False)  # else every row group is held until the end of the file
    return open_parquet(path.path, path.store)


@contextmanager
def reading(path: AnyPath | str) -> Generator[None]:
    """Reads a file of a run in this block. Raises InputError, which names it, for a damaged file."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        reason = explain_os_error(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
        problem = f"cannot be read ({reason}): it is cut, damaged or something else"
        remedy = "run the pipeline again, which takes from the call log what was paid for"
        raise InputError(f"the file {path} {problem}; {remedy}") from None


@contextmanager
def replacing(path: AnyPath) -> Generator[Any]:
    """Gives what to write a small file to, a path or a file in memory; readers see the old content or the new."""
    if isinstance(path, RemotePath):
        content = BytesIO()
        yield content
        path.write_bytes(content.getbuffer())
        return
    temporary = path.with_name(f".{path.name}.tmp")
    yield temporary
    os.replace(temporary, path)


def write_atomically(path: AnyPath, content: bytes) -> None:
    """Write a small file so that readers see the old content or the new."""
    with replacing(path) as file:
        file.write(content) if isinstance(file, BytesIO) else file.write_bytes(content)


def copy_file(source: AnyPath, target: AnyPath) -> None:
    """Copy a file between this machine and a store, or within a store. Raises OSError."""
    outlasting(lambda: _copy_file(source, target), source if isinstance(source, RemotePath) else target)


def _copy_file(source: AnyPath, target: AnyPath) -> None:
    opened: Any
    if isinstance(source, RemotePath):
        store = source.store
        if isinstance(target, RemotePath) and store.get_file_info([source.path])[0].size <= _MOST_COPIED_BYTES:
            store.copy_file(source.path, target.path)
            return
        opened = store.open_input_stream(source.path)
    else:
        opened = source.open("rb")
    target.parent.mkdir(parents=True, exist_ok=True)
    written: Any = target.open("wb") if isinstance(target, Path) else target.store.open_output_stream(target.path)
    with opened as stream, written as sink:
        while chunk := stream.read(_CHUNK_BYTES):
            checkpoint()
            sink.write(chunk)


def local_file(path: AnyPath, folder: Path) -> str:
    """The path of a file on this machine; one in a store is fetched into `folder`. Raises OSError."""
    if isinstance(path, RemotePath):
        copy_file(path, folder / path.name)
        return str(folder / path.name)
    return str(path)


def remove_files(paths: Iterable[RemotePath]) -> None:
    """Remove files; one that is already gone is no error."""
    list(map_concurrently(lambda path: path.unlink(missing_ok=True), list(paths)))


def map_concurrently(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """What `work` returns for each item, in order, some at a time: a store answers many requests as fast as one."""
    with DaemonThreads(min(_AT_ONCE, len(items) or 1)) as threads:
        for start in range(0, len(items), 4 * _AT_ONCE):
            for made in threads.map(work, items[start : start + 4 * _AT_ONCE]):
                checkpoint()
                yield made
