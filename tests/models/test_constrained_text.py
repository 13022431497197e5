"""A text of a form: a regular expression, a choice, a grammar."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.models import open_model
from tests.loopback import serve
from tests.models.test_openai import completed

ASKED = ({"role": "user", "content": "Is it so?"},)
REGEX, CHOICE, GRAMMAR = {"regex": r"\d{2}-[a-z]+"}, {"choice": ["yes", "no"]}, {"grammar": 'root ::= "a"'}


def asked(llm: LLM, form: dict[str, Any]) -> Completion:
    return asyncio.run(completed(llm, Request(ASKED, form=form)))


@pytest.mark.parametrize("uri", ["vllm/x", "vllm-server/x", "offline/x"])
@pytest.mark.parametrize("form", [REGEX, CHOICE, GRAMMAR])
def test_who_knows_forms_is_sent_the_form(uri: str, form: dict[str, Any]) -> None:
    payload = open_model(LLM(uri)).payload(Request(ASKED, form=form)).body
    assert payload["structured_outputs"] == form
    assert "response_format" not in payload


def test_the_stand_in_answers_in_the_form() -> None:
    llm = LLM("offline/x")
    assert re.fullmatch(REGEX["regex"], asked(llm, REGEX).text)
    assert asked(llm, CHOICE).text in CHOICE["choice"]
    assert asked(llm, {"regex": "a|b"}).text in ("a", "b")
    assert asked(llm, GRAMMAR).text


@pytest.mark.parametrize("form", [REGEX, CHOICE])
def test_who_knows_schemas_is_asked_for_an_object_with_the_text(form: dict[str, Any]) -> None:
    with serve() as server:
        made = asked(LLM("openai/x", base_url=server.base_url), form)
    sent = server.requests[0].body["response_format"]["json_schema"]
    assert sent["strict"] is True
    assert list(sent["schema"]["properties"]) == sent["schema"]["required"] == ["answer"]
    assert made.text in CHOICE["choice"] if form is CHOICE else re.fullmatch(REGEX["regex"], made.text)


@pytest.mark.parametrize("text", ["yes", '"yes"', "[1]", '{"answer": 3}', '{"other": "yes"}'])
def test_an_answer_that_is_no_such_object_is_taken_as_it_is(text: str) -> None:
    with serve(answer=lambda _: text) as server:
        assert asked(LLM("openai/x", base_url=server.base_url), CHOICE).text == text


def test_an_object_that_a_schema_asked_for_is_left_as_it_is() -> None:
    schema = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}
    with serve() as server:
        llm = LLM("openai/x", base_url=server.base_url)
        made = asyncio.run(completed(llm, Request(ASKED, schema=schema)))
    assert set(orjson.loads(made.text)) == {"answer"}
