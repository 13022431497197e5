"""What several test modules share: one Ray for the whole session, the choice of an engine, a store."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator
from uuid import uuid4

import pytest
from hypothesis import settings

from tests.keys import CANARY, KEY_OF_WORKERS
from tests.loopback import Loopback, serve

# The machine may be busy: nothing is timed. Every run tries the same examples.
settings.register_profile("plain", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("plain")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray of this machine, started once for all tests that need it."""
    from raypipe.execution.ray.session import session

    os.environ[KEY_OF_WORKERS] = CANARY
    with session(None):
        yield


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of a run; with `ray`, Ray is up."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return request.param


@pytest.fixture
def server() -> Iterator[Loopback]:
    """An endpoint that gives another answer to each call."""
    numbers = itertools.count()
    with serve(answer=lambda _: f"answer {next(numbers)}") as server:
        yield server


@pytest.fixture(scope="session")
def endpoint() -> Iterator[str]:
    """An S3 store of this machine, started once for all tests that need it."""
    from tests.bucket_server import serve_bucket

    with serve_bucket() as address:
        yield address


@pytest.fixture
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder in the store, and the environment in which it is found."""
    from raypipe.calls.remote import folder_here
    from raypipe.storage.paths import RemotePath

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key-of-the-tests")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-of-the-tests")
    name = f"bucket/{uuid4().hex}"
    yield f"s3://{name}"
    shutil.rmtree(folder_here(RemotePath("s3", f"{name}/out/calls")), ignore_errors=True)
