"""What goes wrong ends where it should: a row in the failures, or the run with one sentence, and always in time."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from raypipe.errors import InfrastructureError, InputError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import GeneratorStep, LoadDataFromDicts, LoadDataFromFiles, TextGeneration, step
from tests.acceptance.chain import answer, asked, chain, topics
from tests.books import assert_balanced, failed, user_rows
from tests.loopback import SILENCE, Behaviour, Loopback, serve


@step(inputs=["number"], outputs={"half": float})
def halved(row: Values) -> dict[str, Any]:
    if row["number"] == 713:
        raise ZeroDivisionError("713 cannot be halved")
    return {"half": row["number"] / 2}


def test_one_row_of_a_thousand_fails_alone(engine: Any, tmp_path: Path) -> None:
    with Pipeline("halves") as pipeline:
        LoadDataFromDicts([{"number": number} for number in range(1000)], name="seed") >> halved("halves")
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert user_rows(result["halves"]) == [{"number": n, "half": n / 2} for n in range(1000) if n != 713]
    [(name, kind, message, row)] = failed(result)
    assert (name, kind, row) == ("halves", "exception", {"number": 713})
    assert message.startswith("ZeroDivisionError: 713 cannot be halved (test_failures.py:")
    [lost] = result.failures.to_arrow().to_pylist()
    ids = set(result["halves"].to_arrow().column("_row_id").to_pylist())
    assert (lost["_position"], lost["_source_id"], lost["_row_id"] in ids) == (713, lost["_row_id"], False)
    assert result.exit_code == 3
    assert_balanced(pipeline.graph(), result)


def test_an_endpoint_that_is_not_there_ends_the_run_with_one_sentence(engine: Any, tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        with pytest.raises(InfrastructureError) as caught:
            chain(url, topics(50)).run(tmp_path / "out", engine=engine)
    said = str(caught.value)
    assert f"model 'openai/loopback' at {url}/chat/completions cannot be reached (" in said
    assert "; check base_url and that the server runs; 0 finished rows are in " in said
    assert "\n" not in said


def test_a_refused_key_ends_the_run_quickly(engine: Any, tmp_path: Path) -> None:
    with serve(shares={401: 1.0}) as server:
        with pytest.raises(InfrastructureError, match=r"answered 401: .*; check the key in OPENAI_API_KEY") as caught:
            chain(server.base_url, topics(1000)).run(tmp_path / "out", engine=engine)
        assert len(server.requests) < 100
    assert "\n" not in str(caught.value)


class LastAnswers(Loopback):
    """Answers four calls after a while, and meets all others with a fault at once."""

    held = 4

    def _fault(self, ordinal: int, seed: int, now: float) -> int | str:
        return 200 if ordinal < self.held else self.behaviour.script[0]

    async def _wait(self, seed: int) -> None:
        await asyncio.sleep(3.0 if len(self.requests) <= self.held else 0.0)


@pytest.mark.parametrize("fault", [401, 404, 403])
def test_calls_in_flight_are_kept_when_the_endpoint_is_lost(engine: Any, fault: int, tmp_path: Path) -> None:
    with serve(script=[fault], kind=LastAnswers) as server:
        with pytest.raises(InfrastructureError, match=rf"answered {fault}: .*4 finished rows are in"):
            asks(server.base_url).run(tmp_path / "out", engine=engine)
        assert len(answered_by(server)) == 4
        server.behaviour = Behaviour(script=[200])
        assert len(asks(server.base_url).run(tmp_path / "out", engine=engine)["asks"]) == 20
        assert len(answered_by(server)) == len(set(answered_by(server))) == 20


def test_calls_in_flight_are_kept_when_nobody_can_connect_any_more(tmp_path: Path) -> None:
    with serve(answer=answer, latency_s=5.0) as server:
        said = r"cannot be reached .*4 finished rows are in"
        with closing_door(server.base_url, 4) as url, pytest.raises(InfrastructureError, match=said):
            asks(url).run(tmp_path / "out", engine="local")
        assert len(answered_by(server)) == 4
        server.behaviour = Behaviour()
        assert len(asks(server.base_url).run(tmp_path / "out", engine="local")["asks"]) == 20
        assert len(server.requests) == 20


def asks(url: str) -> Pipeline:
    with Pipeline("asks") as pipeline:
        llm = LLM("openai/loopback", base_url=url, concurrency=8, max_tries=2)
        seed = LoadDataFromDicts([{"topic": topic} for topic in topics(20)], name="seed")
        seed >> TextGeneration("asks", llm=llm, template="{{ topic }}", output="answer")
    return pipeline


def answered_by(server: Loopback) -> list[str]:
    """The requests that were answered."""
    return [logged.digest for logged in server.requests if logged.is_answered]


@contextmanager
def closing_door(url: str, most: int) -> Generator[str]:
    """An address that leads to a server's, until so many have connected; then nobody else can."""
    port, threads, sockets = int(url.split(":")[2].split("/")[0]), list[threading.Thread](), list[socket.socket]()

    def pass_on(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while said := source.recv(2**16):
                target.sendall(said)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)

    def let_in() -> None:
        for _ in range(most):
            inside, outside = door.accept()[0], socket.create_connection(("127.0.0.1", port))
            sockets.extend((inside, outside))
            for pair in ((inside, outside), (outside, inside)):
                threads.append(threading.Thread(target=pass_on, args=pair, daemon=True))
                threads[-1].start()
        door.close()

    door = socket.create_server(("127.0.0.1", 0))
    threads.append(threading.Thread(target=let_in, daemon=True))
    threads[0].start()
    yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
    for thread in threads:
        thread.join(10)
    for one in sockets:
        one.close()


class Slowly(GeneratorStep):
    """Gives what it has read before it meets a broken line."""

    path: str

    def process(self, offset: int = 0) -> Any:
        for line in Path(self.path).read_text().splitlines()[offset:]:
            if not line.endswith("}"):
                time.sleep(0.7)
                raise InputError(f"{self.path}: {line!r} is not JSON")
            yield [orjson.loads(line)], False


def test_a_malformed_input_is_named_with_its_line(engine: Any, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([*(f'{{"number": {number}}}' for number in range(200)), '{"number": 200', ""]))
    with Pipeline("halves") as pipeline:
        LoadDataFromFiles(path, name="seed") >> halved("halves")
    with pytest.raises(InputError) as caught:
        pipeline.run(tmp_path / "out", engine=engine)
    said = str(caught.value)
    assert "rows.jsonl', line 201 is not JSON" in said
    assert "\n" not in said
    assert "ray" not in said.lower().replace(str(tmp_path), "")


def test_calls_in_flight_are_kept_when_the_input_breaks(engine: Any, tmp_path: Path) -> None:
    rows = [*(f'{{"topic": "topic {number}"}}' for number in range(20)), '{"topic": ']
    with serve(answer=answer, latency_s=1.0) as server:
        for broken in (True, False):
            path = tmp_path / "rows.jsonl"
            path.write_text("\n".join(rows if broken else rows[:-1]))
            with Pipeline("asks") as pipeline:
                llm = LLM("openai/loopback", base_url=server.base_url, concurrency=32)
                asking = TextGeneration("asks", llm=llm, template="{{ topic }}", output="answer")
                Slowly(path=str(path), name="seed") >> asking
            if broken:
                with pytest.raises(InputError):
                    pipeline.run(tmp_path / "out", engine=engine)
                assert server.requests or engine == "ray", "Ray hands on what a source gives in large blocks"
        assert len(pipeline.run(tmp_path / "out", engine=engine)["asks"]) == 20
        assert len(server.requests) == 20


def test_passing_errors_of_a_server_lose_no_row(engine: Any, tmp_path: Path) -> None:
    with serve(answer=answer, shares={500: 0.05}) as server:
        pipeline = chain(server.base_url, topics(200), max_tries=10)
        result = pipeline.run(tmp_path / "out", engine=engine)
        assert server.statuses()[500] > 0
        assert server.statuses()[200] == len(set(asked(server))) == 600
        assert sum(counts["calls_sent"] for counts in result.manifest["steps"].values()) == len(server.requests)
    assert (len(result["third"]), result.exit_code) == (200, 0)
    assert_balanced(pipeline.graph(), result)


def test_a_request_to_slow_down_is_honoured(engine: Any, tmp_path: Path) -> None:
    """No call is sent between the refusal and the moment it names, whichever row it belongs to."""
    with serve(answer=answer, script=[200, 429], headers={"Retry-After": "1"}) as server:
        result = chain(server.base_url, topics(30), concurrency=4).run(tmp_path / "out", engine=engine)
        refused = next(request for request in server.requests if request.status == 429)
        after = [request.started for request in server.requests if request.started > refused.ended]
        assert server.statuses() == {200: 90, 429: 1}
        late = [moment for moment in after if moment < refused.ended + 1.0]
    assert len(late) <= 4, "calls that were on their way are allowed, others are not"
    assert (len(result["third"]), result.exit_code) == (30, 0)


def test_a_step_that_returns_nonsense_fails_its_rows(engine: Any, tmp_path: Path) -> None:
    with Pipeline("nonsense") as pipeline:
        seed = LoadDataFromDicts([{"number": number} for number in range(8)], name="seed")
        seed >> [unusual("unusual"), misnamed("misnamed")]
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert user_rows(result["unusual"]) == [{"number": n, "value": text} for n, text in UNUSUAL.items()]
    found = {row["number"]: (name, kind) for name, kind, _, row in failed(result)}
    assert set(found.values()) == {("misnamed", "output")}
    assert len(found) == 8
    assert_balanced(pipeline.graph(), result)


HALF = "\ud83d"
UNUSUAL = {
    0: str(2**70),
    1: '"nan"',
    2: "\\ud83d",
    3: '["\\ud83d"]',
    4: '{"(1, 2)":3}',
    5: "\"b'raw'\"",
    6: None,
    7: "[[[]]]",
}


@step(inputs=["number"], outputs=["value"])
def unusual(row: Values) -> dict[str, Any]:
    """Values that no column can hold as they are."""
    values = [2**70, float("nan"), HALF, [HALF], {(1, 2): 3}, b"raw", None, [[[]]]]
    return {"value": values[row["number"]]}


@step(inputs=["number"])
def misnamed(row: Values) -> dict[Any, Any]:
    """Columns that cannot be."""
    return {"_row_id": "mine"} if row["number"] % 2 else {1: 2}


def test_a_call_without_an_answer_is_hedged_when_that_is_asked_for(tmp_path: Path) -> None:
    with serve(answer=answer, script=[SILENCE]) as server:
        llm = LLM("openai/loopback", base_url=server.base_url, hedge_after_s=0.2)
        with Pipeline("hedged") as pipeline:
            LoadDataFromDicts([{"topic": "rivers"}]) >> TextGeneration("asked", llm=llm, template="{{ topic }}")
        result = pipeline.run(tmp_path / "out", engine="local")
        assert len(server.requests) == 2
    assert len(result["asked"]) == 1
    counts = result.manifest["steps"]["asked"]
    assert (counts["calls_sent"], counts["calls_unanswered"]) == (2, 1)


def test_hedged_calls_that_wait_for_each_others_permits_end(tmp_path: Path) -> None:
    with serve(answer=answer, script=[500], latency_s=0.5) as server:
        llm = LLM("openai/loopback", base_url=server.base_url, hedge_after_s=0.1, concurrency=1)
        with Pipeline("hedged") as pipeline:
            LoadDataFromDicts([{"topic": "rivers"}]) >> TextGeneration("asked", llm=llm, template="{{ topic }}")
        result = pipeline.run(tmp_path / "out", engine="local")
    assert len(result["asked"]) == 1
