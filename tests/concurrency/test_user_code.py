"""What others wrote does not hold the loop, and what we wrote takes no longer than the text is."""

from __future__ import annotations

import asyncio
import pickle
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from raypipe.concurrency.user_code import UserCodeThread
from raypipe.contracts.llm import LLM, Request
from raypipe.dria.parsing import parse_json
from raypipe.errors import RowError
from raypipe.models.offline.free_text import answer
from raypipe.models.offline.prompt import Prompt
from raypipe.steps.answers.parsing import PARSERS, parser
from raypipe.steps.answers.structured import ask_structured
from raypipe.steps.llm.custom_tasks import Task
from raypipe.steps.tasks import TextGeneration
from tests.steps.scripted import ScriptedCaller

SLOW_S = 2.5
HELD_S = 1.2
"""Longest that a loop may stand still, on a machine that is busy with other tests."""
CHARACTERS = 1_000_000


def slow(text: str) -> str:
    time.sleep(SLOW_S)
    return text.upper()


def busy(text: str) -> str:
    until = time.perf_counter() + SLOW_S
    while time.perf_counter() < until:
        sum(range(1000))
    return text.upper()


class SlowTask(Task):
    """Takes its time with both."""

    @property
    def inputs(self) -> list[str]:
        return ["instruction"]

    @property
    def outputs(self) -> list[str]:
        return ["answer"]

    def format_input(self, input: dict[str, Any]) -> list[dict[str, str]]:
        return [{"role": "user", "content": slow(input["instruction"])}]

    def format_output(self, output: str | None, input: dict[str, Any]) -> dict[str, Any]:
        return {"answer": slow(output or "")}


class SlowAnswer(BaseModel):
    """Takes its time with its field."""

    text: str

    @field_validator("text")
    @classmethod
    def _slow(cls, text: str) -> str:
        return slow(text)


def longest_pause(work: Coroutine[Any, Any, Any]) -> tuple[Any, float]:
    """What `work` gave, or its RowError, and how long the loop stood still at most."""

    async def watched() -> tuple[Any, float]:
        task = asyncio.ensure_future(work)
        longest, last = 0.0, time.perf_counter()
        while not task.done():
            await asyncio.sleep(0.01)
            longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
        error = task.exception()
        return (task.result() if error is None else error), longest

    return asyncio.run(watched())


def generation(**options: Any) -> TextGeneration:
    return TextGeneration("answers", llm=LLM("offline/x"), **options)


@pytest.mark.parametrize("parse", [slow, busy, f"{__name__}:slow"], ids=["sleeps", "computes", "by name"])
def test_a_parser_of_the_users_own_does_not_hold_the_loop(parse: Any) -> None:
    step = generation(parse=parse)
    made, pause = longest_pause(step.process_row({"instruction": "a"}, ScriptedCaller("yes")))
    assert made == {"generation": "YES"}
    assert pause < HELD_S


def test_neither_do_tasks_and_validators() -> None:
    task = SlowTask("slow", llm=LLM("offline/x"))
    made, pause = longest_pause(task.process_row({"instruction": "a"}, ScriptedCaller("yes")))
    assert made["answer"] == "YES" and pause < HELD_S
    asked = ask_structured(ScriptedCaller('{"text": "yes"}'), Request(), SlowAnswer)
    (value, _), pause = longest_pause(asked)
    assert value == {"text": "YES"} and pause < HELD_S


@pytest.mark.parametrize(
    "options",
    [{"parse": "regex", "pattern": "(?=a)(a|aa)+$"}, {"structured_output": {"regex": "(?=a)(a|aa)+"}}],
    ids=["parser", "form"],
)
def test_neither_do_patterns_that_are_not_linear(options: dict[str, Any]) -> None:
    answers = ["a" * 60 + "b"] * 2
    made, pause = longest_pause(generation(**options).process_row({"instruction": "a"}, ScriptedCaller(*answers)))
    assert isinstance(made, RowError) and made.kind == "pattern" and pause < HELD_S


def test_functions_of_one_owner_run_one_after_the_other_and_what_they_raise_is_raised() -> None:
    beside, running, most = UserCodeThread("test"), 0, 0

    def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        time.sleep(0.01)
        running -= 1
        if number == 3:
            raise SystemExit(3)
        if number == 4:
            raise StopIteration
        if number == 5:
            raise ValueError("five")
        return number

    async def all_of_it() -> list[Any]:
        return await asyncio.gather(*(beside.run(work, number) for number in range(8)), return_exceptions=True)

    for _ in range(2):  # a second loop, and a thread that has begun already
        found = asyncio.run(all_of_it())
        assert [found[0], found[7]] == [0, 7] and most == 1
        assert [type(one) for one in found[3:6]] == [RuntimeError, RuntimeError, ValueError]
    assert pickle.loads(pickle.dumps(beside)) == beside


PARTS = [
    "[", "{", "(", "```", "```\n", "```json\n{", "<think>", "1.\n", " ", "\n", "\t", '"', "\\", '{"a":', "{x,}", ",",
    "<", "<a>", "</a>", "[{", "]}", "<JSON>", "</JSON>", "- ", "(1)", "*", "a", "'a'", "1,", "[1,", "[1],", "//", "/*",
    "#", "é", "...", "_", "\r\n", "[]", "{}", '["', "{'", "1. ", "`",
]  # fmt: skip


STARTS = ("", "[x", '{"a": ', "```json\n", "<JSON>")


@pytest.mark.parametrize("part", PARTS)
def test_every_parser_takes_about_linear_time(part: str) -> None:
    """A megabyte of one thing over and over, as small models write it."""
    patterned = parser("regex", pattern=r"(\w+\s*)+:")
    parsers = {**PARSERS, "tags": parser("tags", names=["a"]), "any tags": parser("tags"), "regex": patterned}
    parsers.pop("json_list")  # reads as `json` does
    parsers |= {"dria": parse_json} if "JSON" in part else {}
    start = STARTS[PARTS.index(part) % len(STARTS)]
    text = start + part * (CHARACTERS // len(part))
    for name, parse in parsers.items():
        begun = time.process_time()
        with suppress(RowError, ValueError):
            parse(text)
        assert time.process_time() - begun < 8, (name, start)


@pytest.mark.parametrize("part", ["<a>", "a ", "5 a", "format ", "#", "either ", "score 1 ", "- ", "A:", "'a"])
def test_the_offline_model_reads_a_long_prompt_soon(part: str) -> None:
    """A dry run answers every row with it, in the loop."""
    begun = time.process_time()
    assert answer(Prompt.of([{"role": "user", "content": part * (CHARACTERS // len(part))}]), 1)
    assert time.process_time() - begun < 5
