"""Going on with a conversation."""

from __future__ import annotations

import asyncio

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import RowError
from raypipe.steps.llm.chat_generation import ChatGeneration
from tests.steps.scripted import ScriptedCaller

STEP = ChatGeneration(llm=LLM("offline/x"), add_model_name=False)
USER = {"role": "user", "content": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


def ask(messages, *answers):
    caller = ScriptedCaller(*answers)
    return asyncio.run(STEP.process_row({"messages": messages}, caller)), caller


def test_messages_are_sent_as_they_are():
    messages = [{"role": "system", "content": "Be kind."}, USER, {"role": "assistant", "content": ""}, USER]
    made, caller = ask(messages, " hello\n")
    assert made == {"generation": "hello"}
    assert caller.asked[0].messages == tuple(messages)
    assert (STEP.reads(), STEP.writes()) == (("messages",), {"generation": "string"})


def test_parts_that_only_other_messages_have_are_left_out():
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "look", "image_url": None}], "tool_calls": None},
        {"role": "assistant", "content": None, "tool_calls": [CALL], "tool_call_id": None},
        {"role": "tool", "content": "3", "tool_calls": None, "tool_call_id": "1"},
        {**USER, "tool_calls": None, "tool_call_id": None},
    ]
    _, caller = ask(messages, "x")
    assert caller.asked[0].messages == (
        {"role": "user", "content": [{"type": "text", "text": "look"}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "tool", "content": "3", "tool_call_id": "1"},
        USER,
    )


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([USER, {"role": "assistant", "content": "hello"}], r"\[1\] is the last message and from 'assistant'"),
        ([], "is empty; write"),
        (None, "is not a list but None"),
        ("hi", "is not a list but 'hi'"),
        (["hi"], r"\[0\] is not a message but 'hi'"),
        ([{"content": "hi"}], r"\[0\] has no role"),
        ([USER, {"role": "user", "content": None}], r"\[1\] has no content"),
        ([{"role": "assistant", "content": None, "tool_calls": []}, USER], r"\[0\] has no content"),
    ],
)
def test_what_cannot_be_gone_on_with_costs_no_call(messages, said):
    caller = ScriptedCaller()
    with pytest.raises(RowError, match=f"column 'messages'.*{said}") as caught:
        asyncio.run(STEP.process_row({"messages": messages}, caller))
    assert caught.value.kind == "messages"
    assert caller.asked == []
