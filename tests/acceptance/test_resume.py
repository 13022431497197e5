"""No completed call is paid twice: whatever ends a run, the next one sends only what was never answered."""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import LoadDataFromDicts, TextGeneration, step
from tests.acceptance.chain import CONCURRENCY, answer, asked, chain, logged, parsed, topics
from tests.acceptance.processes import killed, table
from tests.books import Row, user_rows
from tests.loopback import Behaviour, Loopback, serve

MANY = 1000
FEW = 40


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[Row]:
    """The table of a run that nothing happens to."""
    with serve(answer=answer) as server:
        out = tmp_path_factory.mktemp("undisturbed") / "out"
        return table(chain(server.base_url, topics(MANY)).run(out, engine="local"))


def test_killed_three_times(engine: Any, tmp_path: Path, undisturbed: list[Row]) -> None:
    out, rng = tmp_path / "out", random.Random(engine)
    at_risk = 0
    with serve(answer=answer, latency_s=0.04) as server:
        for _ in range(3):
            killed(server, out, engine, MANY, len(server.requests) + rng.randrange(50, 250))
            known, seen = logged(out / "calls"), len(server.requests)
            at_risk += len(set(asked(server)) - known)
        result = chain(server.base_url, topics(MANY)).run(out, engine=engine)
        counts = Counter(asked(server))
        assert not known & set(asked(server, since=seen))
    assert len(counts) == 3 * MANY
    assert sum(counts.values()) - len(counts) <= at_risk <= 3 * CONCURRENCY
    assert table(result) == undisturbed


@pytest.fixture(scope="module")
def server() -> Iterator[Loopback]:
    with serve(answer=answer) as server:
        yield server


@pytest.fixture(scope="module")
def finished(engine: Any, server: Loopback, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / engine
    chain(server.base_url, topics(FEW)).run(out, engine=engine)
    return out


@pytest.fixture
def again(finished: Path, tmp_path: Path) -> Path:
    """The folder of a finished run, a copy for each test."""
    return shutil.copytree(finished, tmp_path / "out")


def test_a_row_more_sends_its_own_calls(engine: Any, server: Loopback, again: Path) -> None:
    seen = len(server.requests)
    result = chain(server.base_url, ["new", *topics(FEW)]).run(again, engine=engine)
    assert len(asked(server, seen)) == len(set(asked(server, seen))) == 3
    assert len(result["third"]) == FEW + 1
    assert result.manifest["steps"]["third"]["calls_cached"] == FEW


def test_an_edited_prompt_sends_the_calls_of_its_step(engine: Any, server: Loopback, again: Path) -> None:
    seen = len(server.requests)
    chain(server.base_url, topics(FEW), prompt="edited: {{ second }}").run(again, engine=engine)
    prompts = [request.body["messages"][0]["content"] for request in server.requests[seen:]]
    assert len(set(prompts)) == len(prompts) == FEW
    assert all(prompt.startswith("edited: ") for prompt in prompts)


def test_an_edited_parser_sends_nothing(engine: Any, server: Loopback, finished: Path, again: Path) -> None:
    seen, before = len(server.requests), table(Result(finished))
    result = chain(server.base_url, topics(FEW), parse=parsed).run(again, engine=engine)
    assert len(server.requests) == seen
    assert table(result) == [row | {"third": row["third"].upper()} for row in before]


def test_a_fresh_run_sends_everything(engine: Any, server: Loopback, finished: Path, again: Path) -> None:
    seen = len(server.requests)
    result = chain(server.base_url, topics(FEW)).run(again, engine=engine, fresh=True)
    assert len(asked(server, seen)) == len(set(asked(server, seen))) == 3 * FEW
    assert table(result) == table(Result(finished))


def test_a_shared_call_log_serves_another_folder(engine: Any, server: Loopback, again: Path, tmp_path: Path) -> None:
    seen = len(server.requests)
    result = chain(server.base_url, topics(FEW)).run(tmp_path / "other", calls=again / "calls", engine=engine)
    assert len(server.requests) == seen
    assert table(result) == table(Result(again))
    assert not (tmp_path / "other" / "calls").exists()


IN_FLIGHT = 4


def family(url: str) -> Pipeline:
    """Three children of each of five rows, brought back together."""
    llm = LLM("openai/loopback", base_url=url, concurrency=IN_FLIGHT)
    with Pipeline("family") as pipeline:
        names = TextGeneration("names", llm=llm, template="list: {{ topic }}", parse="lines", output="name").scatter()
        about = TextGeneration("about", llm=llm, template="about {{ name }}", output="about").aggregate()
        LoadDataFromDicts([{"topic": row} for row in topics(5)], name="seed") >> names >> about
    return pipeline


def listing(body: dict[str, Any]) -> str:
    prompt = body["messages"][0]["content"]
    return "\n".join(f"{answer(body)} {n}" for n in "abc") if prompt.startswith("list: ") else answer(body)


@settings(max_examples=25)
@given(k=st.integers(0, 20))
def test_cut_after_any_call_and_resumed(tmp_path_factory: pytest.TempPathFactory, k: int) -> None:
    """The same table, and every recorded call was sent once."""
    folder = tmp_path_factory.mktemp("cut")
    with serve(answer=listing) as server:
        expected = user_rows(family(server.base_url).run(folder / "whole", engine="local")["about_aggregate"])
    with serve(Behaviour(answer=listing, script=[*[200] * k, *[401] * 100])) as server:
        pipeline = family(server.base_url)
        # Rows that lack an answer end the run, or only themselves where they are few.
        with suppress(InfrastructureError):
            pipeline.run(folder / "cut", engine="local")
        recorded, seen = logged(folder / "cut" / "calls"), len(server.requests)
        assert len(recorded) == k
        server.behaviour = Behaviour(answer=listing)
        result = pipeline.run(folder / "cut", engine="local")
        sent = [listing(request.body) for request in server.requests[seen:]]
    assert user_rows(result["about_aggregate"]) == expected
    assert not recorded & set(sent)
    # A call that was on its way when the run ended may reach the server after it.
    assert len(recorded | set(sent)) == 20
    assert len(sent) - len(set(sent)) <= IN_FLIGHT


PAUSE_S = 0.0


@step(inputs=["number"], outputs=["value"])
async def mixed(row: Values) -> dict[str, Any]:
    """A column without a declared type; rows end together or apart."""
    number = row["number"]
    await asyncio.sleep(number * PAUSE_S)
    return {"value": [number, number + 0.5, {"a": number}, {"b": number}, str(number)][number % 5]}


def test_what_a_step_sees_does_not_depend_on_other_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Pipeline("mixed") as pipeline:
        ask = TextGeneration("ask", llm=LLM("offline/stand-in"), template="{{ value }}")
        LoadDataFromDicts([{"number": number} for number in range(10)], name="seed") >> mixed("mixed") >> ask
    together = pipeline.run(tmp_path / "out", engine="local")
    monkeypatch.setattr(sys.modules[__name__], "PAUSE_S", 0.1)
    apart = pipeline.run(tmp_path / "out", engine="local")
    assert apart.manifest["legs"][-1]["steps"]["ask"]["calls_sent"] == 0
    assert table(apart, "ask") == table(together, "ask")
