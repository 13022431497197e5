"""I am a file or folder that may be here or in an object store, and I read and write it whole.

A place here is a plain `Path`; one elsewhere is a `Remote`, which answers to the same words as far as runs need them.
`pyarrow.fs` is loaded only when a place elsewhere is used. Keys come from the environment, as those of the stores' own
tools do: I neither hold nor tell them. I do not know what is in the files.
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
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

from raypipe.concurrency.background import start_thread
from raypipe.concurrency.interruption import checkpoint
from raypipe.concurrency.threads import DaemonThreads
from raypipe.errors import InfrastructureError, InputError, OutputError, SpecError
from raypipe.security.secrets import redact_address

T = TypeVar("T")
R = TypeVar("R")

SCHEMES = ("s3", "gs")
_REACH_S = 30.0
"""What a store may take to say that it is there; after that a run does not begin."""
_LOOK_EVERY_S = 0.1
_CONNECT_S, _REQUEST_S, _TRIES = 5.0, 30.0, 4
_AT_ONCE = 16
_CHUNK_BYTES = 8 << 20
_MOST_COPIED_BYTES = 5_000_000_000
"""S3 copies no larger object by itself."""
_SECRETS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


@dataclass(frozen=True, slots=True, order=True)
class RemotePath:
    """A file or folder in an object store; folders need not be made. Raises OSError as a `Path` does."""

    scheme: str
    path: str
    """The bucket and what is in it, without a slash at the ends."""

    def __str__(self) -> str:
        return f"{self.scheme}://{self.path}"

    def __truediv__(self, name: str) -> RemotePath:
        return RemotePath(self.scheme, f"{self.path}/{name}")

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        return RemotePath(self.scheme, self.path.rpartition("/")[0])

    @property
    def store(self) -> Any:
        """The file system of pyarrow that it is in."""
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION") or ""
        return _store(self.scheme, self.path.partition("/")[0], s3_endpoint(), region)

    def with_name(self, name: str) -> RemotePath:
        return self.parent / name

    def absolute(self) -> RemotePath:
        return self

    def mkdir(self, parents: bool = False, exist_ok: bool = False) -> None:
        """Nothing: a folder is there as soon as there is something in it."""

    def is_file(self) -> bool:
        """Whether it is one: what a folder tells that it has in it is."""
        return True

    def exists(self) -> bool:
        """Whether there is a file with this name, or anything under it."""
        return bool(self.store.get_file_info([self.path])[0].type)

    def glob(self, pattern: str, *, is_deep: bool = False) -> Iterator[Self]:
        """The files directly in this folder whose names match; `is_deep`: also those in folders under it."""
        from pyarrow import fs

        infos = self.store.get_file_info(fs.FileSelector(self.path, allow_not_found=True, recursive=is_deep))
        files = sorted(type(self)(self.scheme, info.path) for info in infos if info.is_file)
        return (file for file in files if fnmatchcase(file.name, pattern))

    def rglob(self, pattern: str) -> Iterator[Self]:
        """The files in this folder and in those under it whose names match."""
        return self.glob(pattern, is_deep=True)

    def relative_to(self, folder: RemotePath) -> PurePosixPath:
        return PurePosixPath(self.path).relative_to(folder.path)

    def open(self, mode: str) -> Any:
        """A file to read (`rb`), fetched as a whole, or to write (`wb`)."""
        return BytesIO(self.read_bytes()) if mode == "rb" else self.store.open_output_stream(self.path)

    def read_bytes(self) -> bytes:
        with self.store.open_input_file(self.path) as file:
            return file.read()

    def read_text(self) -> str:
        return self.read_bytes().decode()

    def write_bytes(self, content: Any) -> None:
        """Write it whole: readers see the old content or the new."""
        with self.store.open_output_stream(self.path) as file:
            file.write(content)

    def unlink(self, missing_ok: bool = False) -> None:
        try:
            self.store.delete_file(self.path)
        except FileNotFoundError:
            if not missing_ok:
                raise

    def copy_to(self, target: RemotePath) -> None:
        """Copy a file within the store."""
        store = self.store
        if store.get_file_info([self.path])[0].size <= _MOST_COPIED_BYTES:
            store.copy_file(self.path, target.path)
            return
        with store.open_input_stream(self.path) as source, target.open("wb") as sink:
            _pour(source, sink)


AnyPath = Path | RemotePath
P = TypeVar("P", Path, RemotePath)


def parse_path(named: str | Path | RemotePath) -> AnyPath:
    """The place that a user names: a path, or the URI of one. Raises SpecError for what is neither."""
    if isinstance(named, RemotePath):
        return named
    text = str(named)
    if isinstance(named, Path) and re.match(r"(s3|gs|file):/", text):
        shown = redact_address(text.replace(":/", "://", 1), every=True)
        raise _refused(shown, "is the URI of a folder made a Path, which takes a slash away; give it as a text")
    if "://" not in text:
        return Path(named)
    parts = urlsplit(text)
    where = redact_address(text, every=True)
    if parts.scheme == "file":
        return Path(parts.path)
    if parts.scheme not in SCHEMES:
        allowed = ", ".join(f"{name}://" for name in SCHEMES)
        problem = f"names a kind of place that is not known (allowed: a path, file://, {allowed})"
        raise _refused(where, f"{problem}; mount it and give its path, or use one of these")
    if "@" in parts.netloc or parts.query:
        problem = "has keys or options in it, which would be written down with it"
        raise _refused(where, f"{problem}; set them in the environment, such as AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL")
    path = f"{parts.netloc}/{parts.path.strip('/')}".rstrip("/")
    if not parts.netloc or "//" in path or path == parts.netloc:
        raise _refused(where, f"is not the folder of a bucket; write {parts.scheme}://bucket/folder")
    return RemotePath(parts.scheme, path)


def _refused(where: str, problem: str) -> SpecError:
    return SpecError.of(f"the place {where}", problem)


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


def address_identity(place: RemotePath) -> str:
    """Stands for a place: the same on every machine, another one for another endpoint."""
    return f"{place} {s3_endpoint() if place.scheme == 's3' else ''}"


def s3_endpoint() -> str:
    """The address of an S3 store that is not Amazon's, from the environment; empty for Amazon's."""
    return os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""


# Whether a store is there, and what is wrong with it.


def check_reachable(place: AnyPath) -> None:
    """Return when the store of a place answers, within half a minute; a place here is left to be tried.

    Raises OutputError when there is no such bucket or it may not be read, InfrastructureError when nothing answers.
    """
    if isinstance(place, Path):
        return
    answers: list[OSError | bool] = []
    bucket = place.path.partition("/")[0]

    def ask() -> None:
        try:
            answers.append(bool(place.store.get_file_info([bucket])[0].type))
        except OSError as error:
            answers.append(error)

    asking = start_thread(ask, "the look for a store", lambda error: answers.append(OSError(str(error))))
    deadline = time.monotonic() + _REACH_S
    while asking.is_alive() and time.monotonic() < deadline:
        asking.join(_LOOK_EVERY_S)
        checkpoint()
    answer = answers[0] if answers else TimeoutError(f"no answer within {_REACH_S:.0f} s")
    if answer is False:
        raise OutputError(f"{place} cannot be used: there is no bucket {bucket!r}; make it, or name another one")
    if isinstance(answer, OSError):
        kind = InfrastructureError if "NETWORK" in str(answer) or isinstance(answer, TimeoutError) else OutputError
        raise kind(f"{place} cannot be used: {explain_os_error(answer)}")


_REASONS = (
    ("NO_SUCH_BUCKET", "there is no such bucket; make it, or name another one"),
    ("ACCESS_DENIED", "access is denied; see that the keys in the environment are those of one who may write there"),
    ("HTTP status 403", "access is denied; see that the keys in the environment are those of one who may write there"),
    ("INVALID_ACCESS_KEY_ID", "the key in AWS_ACCESS_KEY_ID is not known there"),
    ("SIGNATURE_DOES_NOT_MATCH", "the keys in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY do not belong together"),
    ("NETWORK_CONNECTION", "the store cannot be reached; see that AWS_ENDPOINT_URL, if it is set, is right"),
)


def explain_os_error(error: OSError) -> str:
    """Why something could not be read or written, in words that hold no key."""
    said = error.strerror or str(error)
    for sign, words in _REASONS:
        if sign in said:
            return words
    for name in _SECRETS:
        if secret := os.environ.get(name):
            said = said.replace(secret, "***")
    return re.sub(r" \(Request ID: .*?\)", "", " ".join(said.split()))


# Files of any place.


def open_parquet_at(place: AnyPath | str) -> Any:
    """The Parquet file at a place, opened: a `ParquetFile`, no column of which has an extension type of anybody's."""
    from raypipe.security.untrusted_tables import open_parquet

    place = parse_path(place)
    if isinstance(place, Path):
        return open_parquet(place, pre_buffer=False)  # else every row group is held until the end of the file
    return open_parquet(place.path, place.store)


@contextmanager
def reading(place: AnyPath | str) -> Generator[None]:
    """What reads a file of a run inside. Raises InputError, naming it, for a damaged file."""
    import pyarrow as pa

    try:
        yield
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        said = explain_os_error(error) if isinstance(error, OSError) else str(error).partition("\n")[0]
        problem = f"cannot be read ({said}): it is cut, damaged or something else"
        remedy = "run the pipeline again, which takes from the call log what was paid for"
        raise InputError(f"the file {place} {problem}; {remedy}") from None


def for_arrow(paths: Sequence[str]) -> tuple[list[str], Any]:
    """Files of one run in the words of pyarrow: their paths, and the file system that they are in."""
    places = [parse_path(path) for path in paths]
    remote = [place for place in places if isinstance(place, RemotePath)]
    return ([place.path for place in remote], remote[0].store) if remote else (list(paths), None)


@contextmanager
def replacing(place: AnyPath) -> Generator[Any]:
    """What to write a small file to so that a reader sees the old or the new content: a path, or a file in memory."""
    if isinstance(place, RemotePath):
        content = BytesIO()
        yield content
        place.write_bytes(content.getbuffer())
        return
    temporary = place.with_name(f".{place.name}.tmp")
    yield temporary
    os.replace(temporary, place)


def write_atomically(place: AnyPath, content: bytes) -> None:
    """Write a small file so that a reader sees the old or the new content."""
    if isinstance(place, RemotePath):
        place.write_bytes(content)
        return
    with replacing(place) as file:
        file.write_bytes(content)


def upload(file: Path, target: RemotePath) -> None:
    """Bring a file of this machine to a store."""
    with file.open("rb") as source, target.open("wb") as sink:
        _pour(source, sink)


def download(source: RemotePath, file: Path) -> None:
    """Bring a file of a store to this machine."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with source.store.open_input_stream(source.path) as stream, file.open("wb") as sink:
        _pour(stream, sink)


def local_file(place: AnyPath, folder: Path) -> str:
    """The path of a file, one elsewhere brought to `folder`."""
    if isinstance(place, Path):
        return str(place)
    download(place, folder / place.name)
    return str(folder / place.name)


def _pour(source: Any, sink: Any) -> None:
    while chunk := source.read(_CHUNK_BYTES):
        checkpoint()
        sink.write(chunk)


def remove_files(places: Iterable[RemotePath]) -> None:
    """Remove files; one that is gone already is fine."""
    for _ in map_concurrently(lambda place: place.unlink(missing_ok=True), list(places)):
        pass


def map_concurrently(work: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """What `work` makes of each item, in order, some at a time: a store answers many as fast as one."""
    with DaemonThreads(min(_AT_ONCE, len(items) or 1)) as threads:
        for start in range(0, len(items), 4 * _AT_ONCE):
            for made in threads.map(work, items[start : start + 4 * _AT_ONCE]):
                checkpoint()
                yield made
