"""What several test modules share: one Ray for the whole session, and the choice of an engine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import settings

# The machine may be busy: nothing is timed. Every run tries the same examples.
settings.register_profile("plain", deadline=None, derandomize=True)
settings.register_profile("thorough", deadline=None, max_examples=2000)
settings.load_profile("plain")


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """Ray of this machine, started once for all tests that need it."""
    from raypipe.execution.ray.session import session

    with session(None):
        yield


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def engine(request: pytest.FixtureRequest) -> str:
    """The engine of a run; with `ray`, Ray is up."""
    if request.param == "ray":
        request.getfixturevalue("ray_session")
    return request.param
