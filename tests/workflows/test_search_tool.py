"""Tasks that search the web."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.workflows import Edge, Operator, Push, Workflow, WorkflowBuilder, WorkflowStep, Write
from tests.steps.scripted import ScriptedCaller
from tests.workflows.web import Answer, Arrived, serve_web

KEY = "sk-canary-search"


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERPER_API_KEY", KEY)


def results(request: Arrived) -> Answer:
    listed = [{"title": f"T{n}", "link": f"https://x/{n}", "snippet": "s", "position": n} for n in range(9)]
    return 200, orjson.dumps({"searchParameters": {}, "news" if request.path == "/news" else "organic": listed})


def searching(url: str, **options: Any) -> WorkflowBuilder:
    builder = WorkflowBuilder(topic="tea").set_search(base_url=url)
    return builder.search_step("about {{topic}}", **{"outputs": [Write.new("found")]} | options)


def found(url: str, **options: Any) -> Any:
    return asyncio.run(searching(url, **options).build().run(ScriptedCaller()))


def test_a_search_gives_what_was_found() -> None:
    with serve_web(results) as web:
        assert orjson.loads(found(web.url, n_results=2)) == [
            {"title": f"T{n}", "link": f"https://x/{n}", "snippet": "s"} for n in range(2)
        ]
        assert len(orjson.loads(found(web.url, search_type="news", lang="de"))) == 5
        assert len(orjson.loads(found(web.url + "/", search_type="scholar"))) == 5
    assert [request.path for request in web.arrived] == ["/search", "/news", "/scholar"]
    assert web.arrived[0].body == {"q": "about tea", "hl": "en", "num": 2}
    assert web.arrived[1].body == {"q": "about tea", "hl": "de", "num": 5}
    assert {name.lower(): value for name, value in web.arrived[0].headers.items()}["x-api-key"] == KEY


def test_what_was_found_is_read_by_later_tasks() -> None:
    with serve_web(results) as web:
        builder = searching(web.url, n_results=1, outputs=[Push.new("all")]).generative_step("Read {{all}}", id="read")
        caller = ScriptedCaller("done")
        assert asyncio.run(builder.flow([Edge("0", "read")]).build().run(caller)) == "done"
    assert "https://x/0" in caller.asked[0].messages[0]["content"]


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (403, b'{"message": "no ' + KEY.encode() + b'"}', "answered 403: .*; check the key in SERPER_API_KEY"),
        (400, b"odd", "/search answered 400: odd"),
        (200, b"[]", r"answered with no list of results: \[\]"),
        (200, b"{}", "answered with no list of results: {}"),
    ],
)
def test_a_failure_says_what_went_wrong(status: int, body: bytes, said: str) -> None:
    with serve_web(lambda _: (status, body)) as web, pytest.raises(RowError, match=said) as caught:
        found(web.url)
    assert caught.value.kind == "search" and KEY not in str(caught.value)
    assert len(web.arrived) == 1


def test_an_empty_query_is_not_sent() -> None:
    workflow = WorkflowBuilder(topic="").set_search(base_url="http://127.0.0.1:1").search_step("{{topic}}").build()
    with pytest.raises(RowError, match="empty query"):
        asyncio.run(workflow.run(ScriptedCaller()))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"search_type": "new"}, "task '0': search_type: there is no search 'new' (did you mean 'news'?)"),
        ({"n_results": 0}, "task '0': n_results is a whole number from 1 to 100, got 0"),
        ({"lang": ""}, "task '0': lang is a language such as \"en\", got ''"),
        ({"schema": {"type": "object"}}, "task '0': has a schema, which is for GENERATION"),
        ({"output": []}, "task '0': unknown option 'output' (did you mean 'outputs'?)"),
    ],
)
def test_an_unsound_search(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SpecError) as caught:
        searching("https://host", **options).build()
    assert said in str(caught.value)


def test_an_unsound_service() -> None:
    builder = searching("host").set_search(api_key_env="sk-1")
    with pytest.raises(SpecError) as caught:
        builder.build()
    assert "base_url begins with http" in str(caught.value)
    assert "api_key_env is the name of an environment variable, not the key" in str(caught.value)


def test_a_missing_key_is_found_before_anything_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SERPER_API_KEY")
    with Pipeline("searching") as pipeline:
        step = WorkflowStep("s", workflow=searching("https://host").set_return_value("found"), llm=LLM("offline/x"))
        LoadDataFromDicts([{"topic": "tea"}]) >> step
    with pytest.raises(SpecError, match="with the key in SERPER_API_KEY, which is not set; set it, or name another"):
        pipeline.validate()


def test_it_is_saved() -> None:
    workflow = searching("https://host", search_type="news").set_search(api_key_env="MY_KEY").build()
    plain = orjson.loads(orjson.dumps(workflow.to_dict()))
    assert plain["search_service"] == {"base_url": "https://host", "api_key_env": "MY_KEY"}
    assert Workflow.from_dict(plain) == workflow
    assert workflow.tasks[0].operator is Operator.SEARCH and KEY not in str(plain)


def test_a_row_that_is_done_again_searches_no_more(tmp_path: Path) -> None:
    with serve_web(results) as web:
        with Pipeline("searching") as pipeline:
            workflow = searching(web.url).set_return_value("found")
            step = WorkflowStep("s", workflow=workflow, llm=LLM("offline/x"))
            LoadDataFromDicts([{"n": 1}, {"n": 2}]) >> step
        rehearsed = pipeline.dry_run()
        assert len(orjson.loads(rehearsed.samples["s"][0]["found"])) == 5 and web.arrived == []
        for _ in range(2):
            result = pipeline.run(tmp_path / "out", engine="local")
            assert result.failed_rows == 0 and len(web.arrived) == 2
            assert result.manifest["steps"]["s"]["calls_sent"] == 0
    assert all(KEY not in path.read_bytes().decode("latin-1") for path in tmp_path.rglob("*") if path.is_file())
