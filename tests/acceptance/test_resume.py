"""What is paid once is never paid again: kills, added rows, edited prompts and parsers."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import orjson
import pyarrow as pa
import pytest

from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration
from tests.loopback import Loopback, serve

ROWS = 1000
STEPS = ("first", "second", "third")
CONCURRENCY = 32
KILLS = 3
LAG_S = 0.5
"""An answer given this shortly before a kill may not have been read and logged by then."""

_MODEL = "model: {{uri: vllm-server/loopback, base_url: '{url}', concurrency: {concurrency}}}"
_SPEC = """
name: chain
models: {{{model}}}
steps:
  - {{name: seed, type: LoadDataFromFiles, path: {rows}}}
  - {{name: first, type: TextGeneration, llm: model, template: "first {{{{ n }}}}", output: a}}
  - {{name: second, type: TextGeneration, llm: model, template: "second {{{{ n }}}} {{{{ a }}}}", output: b}}
  - {{name: third, type: TextGeneration, llm: model, template: "third {{{{ n }}}} {{{{ b }}}}", output: c}}
"""


def _command(folder: Path, out: Path, url: str, engine: str) -> list[str]:
    rows = folder / "rows.jsonl"
    rows.write_bytes(b"".join(orjson.dumps({"n": number}) + b"\n" for number in range(ROWS)))
    spec = folder / "chain.yaml"
    spec.write_text(_SPEC.format(model=_MODEL.format(url=url, concurrency=CONCURRENCY), rows=rows))
    start = "from raypipe.cli import main; main()"
    return [sys.executable, "-c", start, "run", str(spec), "--out", str(out), "--engine", engine]


def _kill_after(command: list[str], server: Loopback, requests: int) -> float:
    """Start the command and kill its whole process group once the server has seen so many requests; when that was."""
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(server.requests) < requests and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    at = time.monotonic()
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return at


@pytest.mark.timeout(280)
@pytest.mark.parametrize("engine", ["local", pytest.param("ray", marks=pytest.mark.ray)])
def test_a_killed_run_sends_again_only_what_was_in_flight(engine: str, tmp_path: Path) -> None:
    moments = sorted(random.Random(7).sample(range(100, len(STEPS) * ROWS - 200), KILLS))
    with serve(latency_s=0.02, latency_sigma=0.8) as server:
        command = _command(tmp_path, tmp_path / "out", server.base_url, engine)
        kills = [_kill_after(command, server, moment) for moment in moments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=200)
        assert done.returncode == 0, done.stderr
        answered_by: dict[str, float] = {}
        again = 0
        for logged in server.requests:
            before = answered_by.get(logged.digest)
            if before is not None:
                again += 1
                assert any(before > kill - LAG_S for kill in kills), "an answer from before every kill was paid again"
            answered_by[logged.digest] = logged.ended if logged.is_answered else float("inf")
        assert len(answered_by) == len(STEPS) * ROWS
        assert again <= KILLS * CONCURRENCY
        undisturbed = _command(tmp_path, tmp_path / "undisturbed", server.base_url, engine)
        assert subprocess.run(undisturbed, capture_output=True, check=False, timeout=200).returncode == 0
    assert _table(tmp_path / "out").equals(_table(tmp_path / "undisturbed"))


def _table(out: Path) -> pa.Table:
    return Result(out)["third"].to_arrow()


Parse = str | Callable[[str], str]


def _upper(text: str) -> str:
    return text.upper()


def _run(server: Loopback, out: Path, engine: str, rows: int = 20, *, prompt: str = "last", parse: Parse = "text",
         fresh: bool = False, calls: Path | None = None) -> tuple[Result, list[str]]:  # fmt: skip
    """The result, and the prompts that the server saw for it."""
    seen = len(server.requests)
    model = LLM("vllm-server/loopback", base_url=server.base_url)
    with Pipeline("resumed") as pipeline:
        seed = LoadDataFromDicts([{"n": number // 2} for number in range(rows)])
        first = TextGeneration("first", llm=model, template="first {{ n }}", output="a")
        last = TextGeneration("last", llm=model, template=prompt + " {{ a }}", parse=parse, output="b")
        seed >> first >> last
    result = pipeline.run(out, engine=engine, fresh=fresh, calls=calls)  # type: ignore[arg-type]
    return result, [logged.body["messages"][0]["content"] for logged in server.requests[seen:]]


def test_one_more_row_costs_its_own_calls(engine: str, tmp_path: Path) -> None:
    with serve() as server:
        _, sent = _run(server, tmp_path / "out", engine, 20)
        assert len(sent) == 40
        result, sent = _run(server, tmp_path / "out", engine, 21)
    assert [prompt.split()[0] for prompt in sent] == ["first", "last"]
    assert sent[0] == "first 10"
    assert len(result["last"]) == 21


def test_an_edited_prompt_costs_its_step_and_an_edited_parser_nothing(engine: str, tmp_path: Path) -> None:
    with serve() as server:
        before, _ = _run(server, tmp_path / "out", engine)
        texts = before["last"].to_arrow().column("b").to_pylist()
        _, sent = _run(server, tmp_path / "out", engine, prompt="edited")
        assert [prompt.split()[0] for prompt in sent] == ["edited"] * 20
        after, sent = _run(server, tmp_path / "out", engine, parse=_upper)
        assert sent == []
        assert after["last"].to_arrow().column("b").to_pylist() == [text.upper() for text in texts]
        _, sent = _run(server, tmp_path / "out", engine, fresh=True)
        assert len(sent) == 40


def test_a_shared_call_log_serves_another_folder(engine: str, tmp_path: Path) -> None:
    with serve() as server:
        first, _ = _run(server, tmp_path / "one", engine, calls=tmp_path / "calls")
        second, sent = _run(server, tmp_path / "two", engine, calls=tmp_path / "calls")
    assert sent == []
    assert second["last"].to_arrow().equals(first["last"].to_arrow())
