"""Tools that ask a server over HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from pydantic import BaseModel, ValidationError

from raypipe.contracts.llm import TOOL_CALLS, Completion
from raypipe.errors import RowError, SpecError
from raypipe.workflows import HttpRequestTool, Operator, Workflow, WorkflowBuilder, WorkflowStep, Write
from tests.steps.scripted import ScriptedCaller
from tests.workflows.web import Answer, Arrived, serve_web

SECRET = "sk-canary-77d1"


class Place(BaseModel):
    city: str
    days: int | None = None
    units: list[str] = []


def echo(request: Arrived) -> Answer:
    return 200, orjson.dumps([request.method, request.path, request.body])


def sent(tool: HttpRequestTool, **arguments: Any) -> str:
    call = Completion(orjson.dumps([{"name": tool.called, "arguments": arguments}]).decode(), TOOL_CALLS)
    return asyncio.run(calling(tool).run(ScriptedCaller(call, call)))


def calling(tool: HttpRequestTool) -> Workflow:
    builder = WorkflowBuilder().add_custom_tool(tool)
    return builder.generative_step("ask", Operator.FUNCTION_CALLING, id="a", outputs=[Write.new("x")]).build()


def test_arguments_fill_address_query_and_body() -> None:
    with serve_web(echo) as web:
        get = HttpRequestTool(name="w", url=web.url + "/in/{{city}}?a=1", params={"key": True}, arguments=Place)
        found = sent(get, city="Aix / Ü", days=2, units=["c", "f"])
        path = "/in/Aix%20%2F%20%C3%9C?a=1&key=true&days=2&units=c&units=f"
        assert orjson.loads(found) == ["GET", path, None]
        post = HttpRequestTool(name="w", url=web.url, method="post", body={"fixed": 1}, arguments=Place)
        assert orjson.loads(sent(post, city="Aix")) == [
            "POST",
            "/",
            {"fixed": 1, "city": "Aix", "units": []},
        ]
        plain = HttpRequestTool(name="w", url=web.url + "/{{city}}", method="DELETE")
        assert orjson.loads(sent(plain, city="a"))[:2] == ["DELETE", "/a"]
    assert list(plain.declaration()["parameters"]["properties"]) == ["city"]


def test_a_secret_is_read_where_it_is_sent_and_written_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    with serve_web(lambda request: (200, orjson.dumps(request.headers))) as web:
        headers = {"Authorization": "Bearer MY_TOKEN", "X-Key": "MY_TOKEN"}
        tool = HttpRequestTool(name="w", url=web.url, headers={"X-Plain": "1"}, headers_env=headers)
        found = orjson.loads(sent(tool))
        assert [web.arrived[0].headers[name] for name in headers] == [f"Bearer {SECRET}", SECRET]
    assert (found["Authorization"], found["X-Key"], found["X-Plain"]) == ("Bearer [secret]", "[secret]", "1")
    assert SECRET not in repr(tool) + str(calling(tool).to_dict()) + str(tool.identity())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ((404, b"no such\ncity"), "answered 404: no such city"),
        ((302, b"", {"Location": "http://127.0.0.1:1/"}), "answered 302"),
        ((500, b"x" * 1000), "answered 500: " + "x" * 300),
    ],
)
def test_another_status_is_a_failure(answer: Answer, said: str) -> None:
    with serve_web(lambda _: answer) as web, pytest.raises(RowError, match="tool 'w' failed: GET http://") as caught:
        sent(HttpRequestTool(name="w", url=web.url + "/x?key=1"))
    assert str(caught.value).endswith(said) and "key=1" not in str(caught.value)
    assert [request.path for request in web.arrived] == ["/x?key=1"] * 2


def test_a_long_answer_is_cut_and_says_so() -> None:
    with serve_web(lambda _: (200, b"abcdefgh")) as web:
        assert sent(HttpRequestTool(name="w", url=web.url, max_bytes=4)) == "abcd\n[cut after 4 bytes]"
        assert sent(HttpRequestTool(name="w", url=web.url, max_bytes=8)) == "abcdefgh"


def test_a_server_that_does_not_answer_is_a_failure() -> None:
    with serve_web(echo) as web:
        url = web.url
    with pytest.raises(RowError, match=r"tool 'w' failed: GET http://.* got no answer"):
        sent(HttpRequestTool(name="w", url=url))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "file:///etc/passwd"}, "url begins with http:// or https://"),
        ({"url": "http://me:secret@host/"}, "without a user"),
        ({"url": "http://{{host}}/"}, "without placeholders"),
        ({"method": "TRACE"}, "method is one of GET, HEAD"),
        ({"headers": {"Authorization": "x"}}, 'write headers_env={"Authorization": "NAME_OF_A_VARIABLE"}'),
        ({"header": {}}, "Extra inputs are not permitted"),
    ],
)
def test_an_unsound_tool(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError) as caught:
        HttpRequestTool(**{"name": "w", "url": "http://host/"} | fields)
    assert said in str(caught.value)


def test_a_variable_that_is_not_set_is_found_before_anything_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MY_TOKEN", raising=False)
    tool = HttpRequestTool(name="w", url="http://host/", headers_env={"Authorization": "MY_TOKEN"})
    said = "tool 'w' needs the environment variable MY_TOKEN, which is not set; set it"
    assert said in WorkflowStep("s", workflow=calling(tool), output="x").problems()


def test_it_is_saved_with_its_settings() -> None:
    tool = HttpRequestTool(
        name="w", url="http://host/{{city}}", method="POST", body={"a": 1}, time_limit_s=5, arguments=Place
    )
    plain = orjson.loads(orjson.dumps(calling(tool).to_dict()))
    [again] = Workflow.from_dict(plain).tools
    assert again.settings() == tool.settings() and again.declaration() == tool.declaration()
    plain["custom_tools"][0]["url"] = "ftp://host"
    with pytest.raises(SpecError, match="url begins with http"):
        Workflow.from_dict(plain)
