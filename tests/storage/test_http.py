"""What is fetched is bounded, and takes what opens one host to no other."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from raypipe.contracts.llm import LLM, Request
from raypipe.errors import CallError, InfrastructureError, SpecError
from raypipe.execution.ray.jobs import JobServer
from raypipe.files.schema import read_spec
from raypipe.models import open_model
from raypipe.storage.http import fetch_file

SPEC = "name: fetched\nsteps: []\n"
Play = Callable[["Player"], None]


class Player(BaseHTTPRequestHandler):
    """Notes what it is asked and plays one answer."""

    server: Any

    def do_GET(self) -> None:
        self.server.seen.append((self.path, dict(self.headers)))
        self.server.play(self)

    def do_POST(self) -> None:
        self.do_GET()

    def log_message(self, format: str, *args: Any) -> None: ...

    def say(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def playing(play: Play) -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Player) as server:
        server.daemon_threads = True
        server.seen, server.play = [], play  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def moved(place: str) -> Play:
    return lambda player: player.say(302, Location=place)


def spec(player: Player) -> None:
    player.say(200, SPEC.encode())


def test_user_and_password_go_to_their_own_host_alone() -> None:
    with playing(spec) as other, playing(moved(f"http://localhost:{other.server_port}/spec.yaml")) as first:
        assert read_spec(f"http://me:password@127.0.0.1:{first.server_port}/x?token=secret").name == "fetched"
    [(_, shown)], [(path, headers)] = first.seen, other.seen
    assert shown["Authorization"] == "Basic " + base64.b64encode(b"me:password").decode()
    assert "Authorization" not in headers and "Cookie" not in headers
    assert "secret" not in path + str(headers) and "password" not in str(headers)


def test_what_is_said_of_an_address_tells_no_password() -> None:
    with pytest.raises(SpecError, match="got no answer") as refused:
        read_spec("http://me:password@127.0.0.1:9/spec.yaml?token=secretive")
    assert "password" not in str(refused.value) and "secretive" not in str(refused.value)


def test_another_port_is_another_host() -> None:
    with playing(spec) as other, playing(moved(f"http://127.0.0.1:{other.server_port}/s")) as first:
        read_spec(f"http://me:password@127.0.0.1:{first.server_port}/x")
    assert "Authorization" not in other.seen[0][1]


def test_within_a_host_they_are_kept() -> None:
    def play(player: Player) -> None:
        player.say(302, Location="/there") if player.path == "/here" else spec(player)

    with playing(play) as server:
        read_spec(f"http://me:password@127.0.0.1:{server.server_port}/here")
    assert [("Authorization" in headers) for _, headers in server.seen] == [True, True]


@pytest.mark.parametrize("place", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:text/plain,x"])
def test_no_other_way_is_followed(place: str) -> None:
    with playing(moved(place)) as server, pytest.raises(SpecError, match="which is not followed"):
        read_spec(f"http://127.0.0.1:{server.server_port}/x")


def test_a_circle_ends() -> None:
    with playing(moved("/x")) as server, pytest.raises(SpecError, match="has moved more than 5 times"):
        read_spec(f"http://127.0.0.1:{server.server_port}/x")
    assert len(server.seen) == 6


def test_what_is_fetched_is_bounded_in_size_and_time() -> None:
    def endless(player: Player) -> None:
        player.send_response(200)
        player.end_headers()
        try:
            while True:
                player.wfile.write(b"x" * 65536)
        except OSError:
            return

    def slow(player: Player) -> None:
        player.send_response(200)
        player.end_headers()
        try:
            for _ in range(600):
                player.wfile.write(b"x")
                player.wfile.flush()
                time.sleep(0.1)
        except OSError:
            return

    with playing(endless) as server, pytest.raises(SpecError, match="more than 16 MiB"):
        read_spec(f"http://127.0.0.1:{server.server_port}/x")
    with playing(slow) as server, pytest.raises(CallError, match="longer than 1 s"):
        fetch_file(f"http://127.0.0.1:{server.server_port}/x", 1.0, 1 << 20)


def test_a_message_shows_no_secret_of_an_address() -> None:
    with playing(lambda player: player.say(404)) as server, pytest.raises(SpecError) as caught:
        read_spec(f"http://me:pass-canary@127.0.0.1:{server.server_port}/x.yaml?token=query-canary#fragment-canary")
    assert "canary" not in str(caught.value)
    assert "HTTP status 404" in str(caught.value)


def test_an_endpoint_that_moves_gets_no_key_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    import asyncio

    monkeypatch.setenv("OPENAI_API_KEY", "key-canary-of-the-call")

    async def ask(address: str) -> None:
        opened = open_model(LLM("openai/x", base_url=address))
        await opened.open()
        try:
            await opened.complete(opened.payload(Request(messages=({"role": "user", "content": "hi"},))))
        finally:
            await opened.close()

    with (
        playing(spec) as other,
        playing(moved(f"http://localhost:{other.server_port}/v1")) as first,
        pytest.raises(CallError, match="write the address it moved to in base_url"),
    ):
        asyncio.run(ask(f"http://127.0.0.1:{first.server_port}/v1"))
    assert first.seen[0][1]["Authorization"] == "Bearer key-canary-of-the-call"
    assert other.seen == []


def test_a_job_server_that_moves_gets_no_token_sent_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token-canary-of-the-cluster")
    with (
        playing(spec) as other,
        playing(moved(f"http://localhost:{other.server_port}/v1")) as first,
        pytest.raises(InfrastructureError, match="is no job server"),
    ):
        JobServer(f"http://127.0.0.1:{first.server_port}")
    assert first.seen[0][1]["Authorization"] == "Bearer token-canary-of-the-cluster"
    assert other.seen == []
