"""What runs spend is forgotten by nothing: kills, shared logs, retries, runs at once; the manifest lists every leg."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from raypipe.results import Result
from raypipe.results.card import card
from raypipe.storage.run_files import LocalCopy
from tests.acceptance import spending
from tests.acceptance.processes import ROOT
from tests.loopback import Behaviour, Logged, Loopback, serve

PRICES = (1.0, 2.0)
ODD_USAGE: Sequence[Any] = (None, {}, {"prompt_tokens": -1, "completion_tokens": 2**63 - 1}, {"completion_tokens": 0})


class Odd(Loopback):
    """Counts what it used itself, whatever it says: of some answers nothing, or nonsense."""

    def __init__(self, behaviour: Behaviour) -> None:
        super().__init__(behaviour)
        self.used: list[tuple[int, int]] = []
        """Tokens in and out, of each request that was worked on."""
        self.is_odd = True

    def _completion(self, logged: Logged) -> bytes:
        answer = orjson.loads(super()._completion(logged))
        usage = answer["usage"]
        self.used.append((usage["prompt_tokens"], usage.get("completion_tokens", 0)))
        if self.is_odd and len(self.used) % 3 == 0:
            answer["usage"] = ODD_USAGE[len(self.used) // 3 % len(ODD_USAGE)]
        return orjson.dumps(answer)


@dataclass
class Folder:
    """Where runs of one shape go, and what they are told."""

    server: Loopback
    out: Path
    log: Path | None = None
    shape: str = "chain"
    engine: str = "local"
    killed_in_flight: int = 0
    words: list[str] = field(default_factory=list[str])

    def start(self, *words: str, command: str = "run") -> subprocess.Popen[str]:
        spec = [f"{ROOT}/tests/acceptance/spending.py:pipeline"]
        what = ["run", *spec, "--out", str(self.out)] if command == "run" else [command, str(self.out), "--spec", *spec]
        log = ["--calls", str(self.log)] if self.log is not None else []
        env = {"PYTHONPATH": str(ROOT), "OPENAI_API_KEY": "none", "SPENDING_URL": self.server.base_url}
        return subprocess.Popen(
            [sys.executable, "-m", "raypipe.cli", *what, *log, "--engine", self.engine, *words],
            cwd=self.out.parent,
            env={**os.environ, **env, "SPENDING_SHAPE": self.shape},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *words: str, command: str = "run") -> tuple[int, str]:
        process = self.start(*words, command=command)
        said, _ = process.communicate(timeout=170)
        return process.returncode, said

    def kill(self, more: int, *words: str) -> None:
        """Kill a run once it has sent so many calls, or let it end before."""
        process, sent = self.start(*words), len(self.server.requests)
        deadline = time.monotonic() + 170
        while process.poll() is None and len(self.server.requests) < sent + more and time.monotonic() < deadline:
            time.sleep(0.002)
        at_risk = self.server.in_flight
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
        process.communicate()
        self.killed_in_flight += max(at_risk, self.server.in_flight)


@pytest.fixture
def server() -> Any:
    with serve(kind=Odd, latency_s=0.03) as server:
        yield server


@pytest.mark.timeout(600)
def test_a_shared_log_remembers_what_killed_runs_spent(server: Odd, tmp_path: Path) -> None:
    folder = Folder(server, tmp_path / "out", tmp_path / "log")
    for _ in range(3):
        folder.kill(10, "--max-calls", "40")
    code, said = folder.run("--max-calls", "40")
    assert (code, "max_calls=40 is reached" in said) == (4, True), said
    assert 10 <= len(server.requests) <= 40 + folder.killed_in_flight
    other = Folder(server, tmp_path / "other", tmp_path / "log")
    sent = len(server.requests)
    assert other.run("--max-calls", "40")[0] == 4
    assert len(server.requests) == sent, "another folder over the log shares its budget"


@pytest.mark.timeout(600)
def test_two_runs_at_once_over_one_log_share_a_cap(server: Odd, tmp_path: Path) -> None:
    server.is_odd = False
    log = tmp_path / "log"
    runs = [Folder(server, tmp_path / name, log, "calls").start("--max-calls", "50") for name in ("one", "two")]
    ends = [run.communicate(timeout=300)[0] for run in runs]
    assert [run.returncode for run in runs] == [4, 4], ends
    assert len(server.requests) == 50


@pytest.mark.timeout(600)
def test_every_leg_stands_in_the_manifest_and_totals_are_those_of_the_server(server: Odd, tmp_path: Path) -> None:
    server.is_odd = False
    folder = Folder(server, tmp_path / "out", shape="calls")
    folder.kill(30)
    assert folder.run("--max-calls", "80")[0] == 4
    assert folder.run()[0] == 0
    result = Result(folder.out)
    first, second, third = result.manifest["legs"]
    assert (first["ended"], third["ended"]) == ("killed", "complete")
    assert "max_calls=80 is reached" in second["ended"]
    assert second["caps"] == {"max_calls": 80}
    total, [model] = result.manifest["spent"], result.manifest["models"].values()
    assert total["calls_sent"] == sum(leg["calls_sent"] for leg in result.manifest["legs"]) == model["calls_sent"]
    assert total["cost_usd"] == pytest.approx(sum(leg["cost_usd"] for leg in result.manifest["legs"]))  # pyright: ignore[reportUnknownMemberType]
    # The last moment of a run without caps that is killed may be missing, or be estimated.
    assert abs(total["calls_sent"] - len(server.requests)) <= 30
    settled = total["calls_sent"] - total["calls_estimated"]
    assert settled <= len(server.requests)
    code, said = folder.run()
    assert code == 0
    assert ", $0" in said.splitlines()[0] and "all 4 runs: " in said.splitlines()[0]
    again = Result(folder.out).manifest
    assert (again["spent"], again["legs"][:3]) == (total, result.manifest["legs"])
    assert (again["legs"][3]["calls_sent"], again["legs"][3]["cost_usd"]) == (0, 0.0)
    shown = card(LocalCopy(folder.out, again), "org/spending")
    assert f"Made by 4 runs, which sent {total['calls_sent']:,} calls" in shown
    assert f"cost ${total['cost_usd']:,.2f} together" in shown
    told = ("calls_sent", "calls_unanswered", "calls_estimated", "input_tokens", "output_tokens", "cost_usd")
    for name in told:
        assert again["steps"]["ask"][name] == result.manifest["steps"]["ask"][name]


@pytest.mark.timeout(600)
def test_a_retry_holds_the_caps_of_the_run_before(tmp_path: Path) -> None:
    with serve(kind=Odd, shares={400: 0.5}) as server:
        assert isinstance(server, Odd)
        server.is_odd = False
        folder = Folder(server, tmp_path / "out", shape="calls")
        assert folder.run("--max-calls", "100", "--max-failed-rows", "60")[0] == 0
        server.behaviour = replace(server.behaviour, shares={})
        sent = len(server.requests)
        code, said = folder.run(command="retry")
        assert (code, "max_calls=100" in said) == (4, True), said
        assert len(server.requests) <= 100
        assert folder.run("--max-calls", "1000", command="retry")[0] == 0
        assert len(server.requests) > sent
    legs = Result(folder.out).manifest["legs"]
    assert [leg["caps"] for leg in legs] == [{"max_calls": cap} for cap in (100, 100, 1000)]


CAPS = {"--max-calls": 70, "--max-tokens": 9000, "--max-cost-usd": 0.009}


def check_caps(seed: int, engine: str, tmp_path: Path) -> None:
    """Some runs of one shape, of which some are killed, over a log of their own or a shared one; one cap for all."""
    rng = random.Random(seed)
    shape, cap = rng.choice(spending.SHAPES), rng.choice(list(CAPS))
    shares: dict[int | str, float] = {500: 0.1, "cut": 0.1} if rng.random() < 0.5 else {}
    with serve(kind=Odd, latency_s=0.03, latency_sigma=0.8, shares=shares) as server:
        assert isinstance(server, Odd)
        log = tmp_path / "log" if rng.random() < 0.5 else None
        folders = [Folder(server, tmp_path / f"out{number}", log, shape, engine) for number in range(1 + bool(log))]
        words = [cap, str(CAPS[cap]), "--max-failed-rows", "1000"]
        for _ in range(rng.randrange(1, 4)):
            rng.choice(folders).kill(rng.randrange(1, 30), *words)
        codes = [folder.run(*words) for folder in folders]
        command = "retry" if codes[0][0] == 0 else "run"
        codes.append(folders[0].run(*words, command=command))
        assert all(code in (0, 4) for code, _ in codes), codes
        in_flight = sum(folder.killed_in_flight for folder in folders)
        worst_in, worst_out = 300, spending.MOST_TOKENS
        used = {
            "--max-calls": (len(server.requests), 1),
            "--max-tokens": (sum(map(sum, server.used)), worst_in + worst_out),
            "--max-cost-usd": (
                sum(read * PRICES[0] + written * PRICES[1] for read, written in server.used) / 1e6,
                (worst_in * PRICES[0] + worst_out * PRICES[1]) / 1e6,
            ),
        }
        spent, each = used[cap]
        assert spent <= CAPS[cap] + in_flight * each, json.dumps({"shape": shape, "cap": cap, "said": codes}, indent=1)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(2))
def test_no_cap_is_passed_by_more_than_was_in_flight_at_kills(seed: int, tmp_path: Path) -> None:
    check_caps(seed, "local", tmp_path)


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(400))
def test_no_cap_is_passed_in_many_runs(seed: int, tmp_path: Path) -> None:
    check_caps(1000 + seed, "local", tmp_path)


@pytest.mark.full
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100))
def test_no_cap_is_passed_in_many_runs_on_ray(seed: int, tmp_path: Path) -> None:
    check_caps(5000 + seed, "ray", tmp_path)
