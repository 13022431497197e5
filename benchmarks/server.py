"""The cheapest OpenAI-compatible server that can be: one asyncio protocol, one constant answer, a chosen latency.

`python -m benchmarks.server --latency-s 0.5 --sigma 0.8 --log FILE` prints its base URL, then serves until its
input ends. The latency of a request is log-normal and a function of its body alone, so that every client
meets the same. With `--log` each request is a line: arrival, end (seconds), latency, first user message.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import subprocess
import sys
import time
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import NormalDist

import orjson
import uvloop

_TEXT = "A plausible answer. " * 10
_ANSWER = orjson.dumps(
    {
        "id": "x",
        "object": "chat.completion",
        "model": "bench",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": _TEXT}}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150},
    }
)
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
    + str(len(_ANSWER)).encode()
    + b"\r\n\r\n"
    + _ANSWER
)


_NORMAL = NormalDist()


def latency_of(key: bytes, mean_s: float, sigma: float) -> float:
    """Log-normal with this mean, decided by `key`."""
    if not mean_s:
        return 0.0
    draw = _NORMAL.inv_cdf((zlib.crc32(key) + 0.5) / 2**32)
    return math.exp(math.log(mean_s) - sigma * sigma / 2 + sigma * draw)


class _Connection(asyncio.Protocol):
    def __init__(self, mean_s: float, sigma: float, lines: list[bytes] | None) -> None:
        self._mean_s, self._sigma, self._lines = mean_s, sigma, lines
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (end := self._held.find(b"\r\n\r\n")) >= 0:
            head = self._held[:end].lower()
            named = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
            size = int(named) if named else 0
            if len(self._held) < end + 4 + size:
                return
            body, self._held = self._held[end + 4 : end + 4 + size], self._held[end + 4 + size :]
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        if not self._mean_s:
            self._transport.write(_RESPONSE)
            return
        plain = orjson.loads(body)
        prompt = plain["messages"][-1]["content"].encode()
        latency = latency_of(prompt, self._mean_s, self._sigma)
        asyncio.get_running_loop().call_later(latency, self._end, time.monotonic(), latency, prompt)

    def _end(self, arrived: float, latency: float, prompt: bytes) -> None:
        self._transport.write(_RESPONSE)
        if self._lines is not None:
            self._lines.append(b"%.6f\t%.6f\t%.6f\t%s\n" % (arrived, time.monotonic(), latency, prompt[:80]))


async def _serve(mean_s: float, sigma: float, log: str | None) -> None:
    lines: list[bytes] | None = [] if log else None
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(mean_s, sigma, lines), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        if log and lines is not None:
            await asyncio.to_thread(_write, log, lines)
            lines.clear()
        print("ok", flush=True)


def _write(log: str, lines: list[bytes]) -> None:
    Path(log).write_bytes(b"".join(lines))


class Server:
    """The server in a process of its own."""

    def __init__(self, process: subprocess.Popen[str], base_url: str) -> None:
        self._process = process
        self.base_url = base_url

    def flush(self) -> None:
        """Write the log of what was served since the last time."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("flush\n")
        self._process.stdin.flush()
        self._process.stdout.readline()


@contextmanager
def serve(mean_s: float = 0.0, sigma: float = 0.0, log: str = "") -> Generator[Server]:
    """A server process while inside."""
    command = [sys.executable, "-m", "benchmarks.server", "--latency-s", str(mean_s), "--sigma", str(sigma)]
    command += ["--log", log] if log else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Server(process, process.stdout.readline().strip())
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--latency-s", type=float, default=0.0)
    parser.add_argument("--sigma", type=float, default=0.0)
    parser.add_argument("--log")
    chosen = parser.parse_args()
    uvloop.run(_serve(chosen.latency_s, chosen.sigma, chosen.log))
