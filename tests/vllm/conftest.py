"""One real vLLM server for all tests here."""

from __future__ import annotations

from collections.abc import Generator

import pytest


@pytest.fixture(scope="session")
def base_url(tmp_path_factory: pytest.TempPathFactory) -> Generator[str]:
    from tests.vllm.tiny import make_model, serve

    folder = tmp_path_factory.mktemp("vllm")
    with serve(make_model(folder / "tiny"), folder / "server.log") as url:
        yield url
