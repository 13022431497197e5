"""A pool of models: any member answers, the least loaded first, another when one is limited or broken."""

from __future__ import annotations

import asyncio
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.model import Payload
from raypipe.contracts.model_pool import make_pool, name_members
from raypipe.errors import CallError, InfrastructureError, Retry, SpecError
from raypipe.execution.worker import model_selection
from raypipe.execution.worker.backend import make_backends
from raypipe.limits import REFUSED, Caps, RateCoordinator
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.steps import LoadDataFromDicts, TextGeneration, step
from raypipe.workflows import WorkflowBuilder, WorkflowStep, Write
from tests.books import failed, user_rows
from tests.loopback import Loopback, serve


def at(server: Loopback, name: str, **fields: Any) -> LLM:
    return LLM(f"vllm-server/{name}", **{"base_url": server.base_url, "concurrency": 16} | fields)


@pytest.fixture
def dead() -> LLM:
    """A model behind a port where nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return LLM("vllm-server/dead", base_url=f"http://127.0.0.1:{port}/v1", concurrency=16)


@pytest.fixture
def servers() -> Iterator[list[Loopback]]:
    with ExitStack() as stack:
        yield [stack.enter_context(serve(answer=lambda body: body["model"])) for _ in range(2)]


def asking(llms: list[LLM], rows: int = 60, **options: Any) -> Pipeline:
    with Pipeline("pooled") as pipeline:
        seed = LoadDataFromDicts([{"n": number} for number in range(rows)], name="seed")
        seed >> TextGeneration("ask", llm=llms, template="{{ n }}", output="text", **options)
    return pipeline


def members(result: Result) -> dict[str, Any]:
    [model] = result.manifest["models"].values()
    return model["members"]


def test_a_limited_and_a_dead_member_hold_up_nothing(tmp_path: Path, engine: str, dead: LLM) -> None:
    with serve(answer=lambda body: body["model"], latency_s=0.02) as healthy, serve(requests_per_s=1 / 6) as limited:
        pool = [dead, at(limited, "limited"), at(healthy, "healthy")]
        result = asking(pool, 1000).run(tmp_path / "out", engine=engine)
    rows = user_rows(result["ask"])
    assert sorted(row["n"] for row in rows) == list(range(1000))
    named = Counter(row["model_name"] for row in rows)
    assert named["vllm-server/dead"] == 0
    found = members(result)
    assert {name: one["calls_sent"] - one["calls_unanswered"] for name, one in found.items()} == {
        name: named[name] for name in ("vllm-server/dead", "vllm-server/limited", "vllm-server/healthy")
    }
    assert sum(one["share"] for one in found.values()) == pytest.approx(1.0, abs=1e-3)
    assert found["vllm-server/dead"]["failovers"] == found["vllm-server/dead"]["calls_unanswered"] > 0
    assert found["vllm-server/healthy"]["share"] > 0.9
    assert healthy.statuses() == {200: named["vllm-server/healthy"]}


def test_weights_share_the_calls(tmp_path: Path, servers: list[Loopback]) -> None:
    one, other = servers
    pool = [at(one, "one", weight=3.0), at(other, "other", weight=1.0)]
    asking(pool, 400).run(tmp_path / "out", engine="local")
    assert len(one.requests) == pytest.approx(300, abs=40)
    assert len(other.requests) == 400 - len(one.requests)


def test_what_was_answered_is_asked_of_nobody_again(tmp_path: Path, servers: list[Loopback], dead: LLM) -> None:
    one, other = servers
    pipeline = asking([at(one, "one"), at(other, "other")])
    before = user_rows(pipeline.run(tmp_path / "out", engine="local")["ask"])
    sent = [*one.requests, *other.requests]
    again = pipeline.run(tmp_path / "out", engine="local")
    assert user_rows(again["ask"]) == before
    assert {row["text"] for row in before} == {"one", "other"}
    assert all(row["model_name"] == f"vllm-server/{row['text']}" for row in before)
    longer = asking([dead, at(other, "other"), at(one, "one")]).run(tmp_path / "out", engine="local")
    assert user_rows(longer["ask"]) == before
    assert [*one.requests, *other.requests] == sent
    assert sum(figures["calls_cached"] for figures in members(again).values()) == 60


def test_every_answer_of_a_row_says_whose_it_is(tmp_path: Path, servers: list[Loopback]) -> None:
    pipeline = asking([at(servers[0], "one"), at(servers[1], "other")], num_generations=4)
    rows = user_rows(pipeline.run(tmp_path / "out", engine="local")["ask"])
    assert len(rows) == 240
    assert all(row["model_name"] == f"vllm-server/{row['text']}" for row in rows)
    assert any(len({row["text"] for row in rows if row["n"] == n}) == 2 for n in range(60))


def test_a_function_is_told_who_answered(tmp_path: Path, servers: list[Loopback]) -> None:
    @step(outputs=["said", "by"])
    async def ask(row: Any, llm: Any) -> Any:
        return {"said": await llm(f"{row['n']}?"), "by": llm.label}

    with Pipeline("told") as pipeline:
        seed = LoadDataFromDicts([{"n": number} for number in range(40)], name="seed")
        seed >> ask("ask", llm=[at(servers[0], "one"), at(servers[1], "other")])
    rows = user_rows(pipeline.run(tmp_path / "out", engine="local")["ask"])
    assert {row["by"] for row in rows} == {"vllm-server/one", "vllm-server/other"}
    assert all(row["by"].endswith(row["said"]) for row in rows)


def test_what_one_refuses_another_may_answer(tmp_path: Path, servers: list[Loopback]) -> None:
    with serve(shares={400: 1.0}) as refusing:
        pool = [at(refusing, "refusing"), at(servers[0], "one")]
        result = asking(pool).run(tmp_path / "out", engine="local")
    assert {row["text"] for row in user_rows(result["ask"])} == {"one"}
    assert members(result)["vllm-server/refusing"]["failovers"] == len(refusing.requests) > 0


def test_a_row_that_all_refuse_fails_alone(tmp_path: Path) -> None:
    with serve(shares={400: 1.0}) as one, serve(shares={400: 1.0}) as other:
        result = asking([at(one, "one"), at(other, "other")], 5).run(tmp_path / "out", engine="local")
    assert len(failed(result)) == 5
    assert len(one.requests) == len(other.requests) == 5


def test_a_run_ends_when_no_member_can_be_reached(tmp_path: Path, dead: LLM) -> None:
    pool = [dead.model_copy(update={"max_tries": 2}), dead.model_copy(update={"max_tries": 2, "temperature": 1.0})]
    with pytest.raises(InfrastructureError, match=r"dead.*cannot be reached.*; .*dead.*cannot be reached"):
        asking(pool).run(tmp_path / "out", engine="local")


def test_members_of_one_name_are_told_apart(tmp_path: Path, servers: list[Loopback]) -> None:
    result = asking([at(server, "same") for server in servers]).run(tmp_path / "out", engine="local")
    assert set(members(result)) == {"vllm-server/same", "vllm-server/same #2"}
    assert all(server.requests for server in servers)


def test_a_pool_is_saved_and_read_again(tmp_path: Path, servers: list[Loopback]) -> None:
    pipeline = asking([at(servers[0], "one", weight=2.0), at(servers[1], "other")])
    pipeline.save(tmp_path / "pooled.yaml")
    again = Pipeline.from_file(tmp_path / "pooled.yaml")
    assert again.graph().steps["ask"].llm == pipeline.graph().steps["ask"].llm


def test_a_file_names_its_members(tmp_path: Path) -> None:
    file = tmp_path / "pooled.yaml"
    file.write_text(
        """
name: pooled
models:
  quick: {uri: offline/quick, weight: 2}
  slow: offline/slow
steps:
  - {name: seed, type: LoadDataFromDicts, data: [{n: 1}]}
  - {name: ask, type: TextGeneration, llm: [quick, slow, offline/third], template: "{{ n }}"}
"""
    )
    llm = Pipeline.from_file(file).graph().steps["ask"].llm
    assert llm is not None
    assert [member.uri for member in name_members(llm).values()] == ["offline/quick", "offline/slow", "offline/third"]
    assert llm.label == "offline/quick | offline/slow | offline/third"


@pytest.mark.parametrize("pool", [[], ["offline/one"], [LLM("offline/one"), 3]])
def test_what_is_no_pool_is_refused(pool: list[Any]) -> None:
    with pytest.raises(SpecError, match="pool of models"):
        TextGeneration("ask", llm=pool)


def test_a_workflow_records_who_answered(tmp_path: Path, servers: list[Loopback]) -> None:
    builder = WorkflowBuilder(n=None).generative_step("{{n}}?", outputs=[Write.new("text")]).set_return_value("text")
    with Pipeline("workflow") as pipeline:
        seed = LoadDataFromDicts([{"n": str(number)} for number in range(30)], name="seed")
        seed >> WorkflowStep("ask", workflow=builder, llm=[at(servers[0], "one"), at(servers[1], "other")])
    rows = user_rows(pipeline.run(tmp_path / "out", engine="local")["ask"])
    assert {row["text"] for row in rows} == {"one", "other"}
    assert all(row["model_name"] == f"vllm-server/{row['text']}" for row in rows)


def test_who_comes_back_does_not_catch_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])

    async def chosen() -> tuple[Counter[str], Counter[str]]:
        llm = make_pool([LLM("offline/one", weight=2.0), LLM("offline/other")])
        members = make_backends(llm, "worker", 1, RateCoordinator(Caps()), Caps())
        selector = model_selection.ModelSelector(members)

        async def turns(count: int) -> Counter[str]:
            found: Counter[str] = Counter()
            for _ in range(count):
                attempts = [model_selection.Attempt(member, Payload({}), b"") for member in members]
                for one in attempts:
                    one.need = one.backend.costs.most(one.payload)
                entered = await selector.enter(attempts)
                entered.backend.limiter.leave(entered.need, REFUSED)
                found[entered.backend.name] += 1
            return found

        await turns(3)
        for _ in range(3):
            members[1].note_failure(CallError("away", retry=Retry.LATER))
        alone = await turns(300)
        now[0] += 10.0
        members[1].note_success()
        together = await turns(30)
        await selector.close()
        return alone, together

    alone, together = asyncio.run(chosen())
    assert alone == {"offline/one": 300}
    assert together["offline/other"] == pytest.approx(10, abs=2)
