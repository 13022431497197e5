"""Creates and replaces one small object of a store only where it stands as the writer last saw it.

Knows nothing of what is in it. `pyarrow.fs` has no conditional writes, so obstore sends these (HTTP `If-None-Match: *`
and `If-Match`, on Google's stores the generation); it has the keys of the environment or of a plain profile. Where the
store, or the way its keys are given, does not allow that, `PlainObject` looks before it writes, which leaves a moment
in which another may write as well.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from configparser import ConfigParser, Error
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from raypipe.storage.paths import RemotePath, explain_os_error, s3_endpoint

_CONNECT_S, _REQUEST_S, _RETRIES = 5, 30, 3
_PROFILE_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")


class Versioned(NamedTuple):
    """What an object holds, and which of its versions that is."""

    content: bytes
    version: Any


class ConditionalObject:
    """An object in a store that compares and writes in one request."""

    def __init__(self, path: RemotePath) -> None:
        """Raises OSError when obstore cannot use the store."""
        bucket, _, self._key = path.path.partition("/")
        options: dict[str, Any] = {
            "client_options": {
                "connect_timeout": timedelta(seconds=_CONNECT_S),
                "timeout": timedelta(seconds=_REQUEST_S),
                "allow_http": True,
            },
            "retry_config": {"max_retries": _RETRIES, "retry_timeout": timedelta(seconds=_REQUEST_S)},
        }
        with _os_errors():
            from obstore.store import GCSStore, S3Store

            if path.scheme == "gs":
                self._store: Any = GCSStore(bucket, **options)
                return
            if endpoint := s3_endpoint():
                options["endpoint"] = endpoint.rstrip("/")
            self._store = S3Store(bucket, region=path.store.region, **_profile_keys(), **options)

    def read(self) -> Versioned | None:
        """What the object holds; `None` where there is none. Raises OSError."""
        try:
            with _os_errors():
                found = self._store.get(self._key)
                return Versioned(bytes(found.bytes()), _version_in(found.meta))
        except FileNotFoundError:
            return None

    def write(self, content: bytes, version: Any = None) -> Any:
        """The version written; `None`, with nothing written, unless `version` is the one that stands there.

        `version=None`: unless no object stands there. Raises OSError.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        try:
            with _os_errors():
                # In parts, a condition would hold for the last request alone.
                return _version_in(self._store.put(self._key, content, mode=version or "create", use_multipart=False))
        except (FileNotFoundError, AlreadyExistsError, PreconditionError):
            return None


def _version_in(answer: Any) -> dict[str, str]:
    """What stands for a version: S3 knows it by its ETag, Google's stores by its generation."""
    return {name: answer[name] for name in ("e_tag", "version") if answer.get(name)}


@dataclass(frozen=True)
class PlainObject:
    """An object in a store that takes no conditions: its version is its content."""

    path: RemotePath

    def read(self) -> Versioned | None:
        """As `ConditionalObject.read`."""
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return None
        return Versioned(content, content)

    def write(self, content: bytes, version: Any = None) -> Any:
        """As `ConditionalObject.write`, in two steps: it looks, then it writes."""
        found = self.read()
        if (None if found is None else found.version) != version:
            return None
        self.path.write_bytes(content)
        return content


StoredObject = ConditionalObject | PlainObject


def why_not_conditional(made: StoredObject, content: bytes) -> str | None:
    """Why a store takes no conditions, seen at an object that was created just now; `None` where it does.

    Some stores know the header and refuse, others do not and write.
    """
    try:
        return None if made.write(content) is None else "it wrote an object that was to be created only where none is"
    except OSError as error:
        return explain_os_error(error)


@contextmanager
def _os_errors() -> Generator[None]:
    """Errors of obstore, but for those about conditions, as those that files raise."""
    from obstore.exceptions import AlreadyExistsError, BaseError, PreconditionError

    try:
        yield
    except (AlreadyExistsError, PreconditionError):
        raise
    except BaseError as error:
        # Behind its first line stands all that the client knows, and the answer of the store as XML.
        raise OSError(str(error).partition("\n")[0].partition(": <?xml")[0]) from None


def _profile_keys() -> dict[str, str]:
    """Keys of the profile that the store's own tools would use; obstore itself reads the environment alone."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return {}
    profiles = ConfigParser(interpolation=None)
    try:
        profiles.read(os.environ.get("AWS_SHARED_CREDENTIALS_FILE") or Path("~/.aws/credentials").expanduser())
    except (Error, OSError, UnicodeDecodeError):
        return {}
    name = os.environ.get("AWS_PROFILE") or "default"
    given = profiles[name] if profiles.has_section(name) else {}
    return {key: given[key] for key in _PROFILE_KEYS if given.get(key)} if given.get(_PROFILE_KEYS[0]) else {}
