"""A store that is out of order for a while is waited for, in whatever phase a run is."""

from __future__ import annotations

import time

import pytest

from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts
from tests.bucket_server import BUCKET, serve_bucket
from tests.loopback import Loopback
from tests.pipelines import asking

OUTAGE_S = 20.0


@pytest.mark.parametrize(
    "begins",
    ["/.raypipe/mark", "/.raypipe/work/parts/", "/calls/", "/.raypipe/work/data/", "/out/data/", "/out/manifest.json"],
)
def test_an_outage_is_waited_for_and_said(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, begins: str
) -> None:
    ends_at: list[float] = []

    def admit(method: str, path: str) -> bool:
        if begins in path and method == "PUT" and not ends_at:
            ends_at.append(time.monotonic() + OUTAGE_S)
        return not ends_at or time.monotonic() > ends_at[0]

    with Pipeline("outage") as made:
        LoadDataFromDicts([{"n": n} for n in range(20)], name="seed").connect(asking(server, "asked", "{{ n }}"))
    with serve_bucket(admit=admit) as address:
        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        out = f"s3://{BUCKET}/{begins.strip('/').replace('/', '-')}/out"
        made.run(out, engine="local")
        assert len(Result(out)["default"]) == 20
    assert ends_at
    assert len(server.requests) == 20
    assert "does not answer as it should; waiting for it" in caplog.text or begins == "/calls/"
