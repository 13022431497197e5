"""The loopback server counts what tests rely on."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from typing import Any
from urllib.request import urlopen

from raypipe.contracts.llm import LLM, Request
from raypipe.errors import CallError
from raypipe.identity import canonical_json, digest
from raypipe.models import open_model
from tests.loopback import CUT, serve, spawn


def send(base_url: str, count: int) -> Counter[str]:
    """What `count` different requests at once end with; each is sent once."""
    model = open_model(LLM("vllm-server/m", base_url=base_url))

    async def one(number: int) -> str:
        try:
            await model.complete(model.payload(request(number)))
        except CallError as error:
            return error.kind
        return "ok"

    async def all_sent() -> list[str]:
        await model.open()
        try:
            return await asyncio.gather(*(one(number) for number in range(count)))
        finally:
            await model.close()

    return Counter(asyncio.run(all_sent()))


def request(number: int) -> Request:
    return Request(({"role": "user", "content": f"Say {number}."},))


def test_log_counts_by_the_digest_of_the_request() -> None:
    with serve(latency_s=0.05, script=[500, CUT]) as server:
        assert send(server.base_url, 5) == {"ok": 3, "server": 1, "broken_answer": 1}
        payload = open_model(LLM("vllm-server/m")).payload(request(3)).body
        assert server.counts()[digest(canonical_json(payload)).hex()] == 1
        assert server.statuses() == {200: 3, 500: 1, 0: 1}
        assert (server.in_flight, server.max_in_flight) == (0, 5)
        assert all(logged.ended - logged.started >= 0.05 for logged in server.requests)


def test_shares_follow_the_request() -> None:
    def statuses() -> dict[str, int]:
        with serve(shares={429: 0.3, 500: 0.1}) as server:
            return dict(send(server.base_url, 100))

    met = statuses()
    assert 15 < met["rate_limit"] < 45 and 2 < met["server"] < 20
    assert met == statuses()


def test_quota_admits_its_burst_and_its_rate() -> None:
    with serve(requests_per_s=20, burst=10) as server:
        started = time.monotonic()
        met = send(server.base_url, 30)
        assert 10 <= met["ok"] <= 11 + 20 * (time.monotonic() - started)


def test_runs_as_a_process() -> None:
    with spawn("--script", "429", "--header", "Retry-After: 2") as base_url:
        assert send(base_url, 1) == {"rate_limit": 1}
        assert send(base_url, 2) == {"ok": 2}
        assert fetched(base_url.replace("/v1", "/log"))["statuses"] == {"429": 1, "200": 2}
        assert fetched(f"{base_url}/models")["data"][0]["id"] == "loopback"


def fetched(url: str) -> Any:
    with urlopen(url) as response:
        return json.load(response)
