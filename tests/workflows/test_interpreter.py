"""A workflow for one row: memory, conditions, fallbacks, schemas, limits."""

from __future__ import annotations

import asyncio
import time
from datetime import date

import pytest
from pydantic import BaseModel

from raypipe.contracts.llm import Completion, Usage
from raypipe.errors import CallError, HaltedError, RowError
from raypipe.workflows import (
    ConditionBuilder,
    Edge,
    Expression,
    GetAll,
    Peek,
    Pop,
    Push,
    Read,
    Size,
    String,
    WorkflowBuilder,
    Write,
)
from tests.steps.scripted import ScriptedCaller

TEXT = [Write.new("text")]


class Verdict(BaseModel):
    score: int


def run(workflow, *answers, memory=None, **options):
    """The return value, and the prompts that were asked."""
    caller = ScriptedCaller(*answers)
    value = asyncio.run(workflow.run(caller, memory, **options))
    return value, [request.messages[-1]["content"] for request in caller.asked]


def failed(workflow, *answers, memory=None):
    with pytest.raises(RowError) as caught:
        run(workflow, *answers, memory=memory)
    return caught.value.kind, str(caught.value)


def asking(prompt, memory=None, **options):
    builder = WorkflowBuilder(memory or {}).generative_step(prompt, **{"id": "a", "outputs": TEXT} | options)
    return builder.set_return_value("text").build()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("tea", "tea"),
        (3, "3"),
        (2.5, "2.5"),
        (True, "True"),
        (2**70, str(2**70)),
        (["x", 'ü "y"'], '["x","ü \\"y\\""]'),
        ([], "[]"),
        ([date(2026, 1, 2), 2**70], f'["2026-01-02",{2**70}]'),
    ],
)
def test_what_a_placeholder_shows(value, shown):
    assert run(asking("<{{v}}>", {"v": value}), " answer\n") == ("answer", [f"<{shown}>"])


def test_a_row_brings_its_own_memory():
    workflow = asking("{{topic}} {{n}} {{seen}}", {"topic": None, "n": 1, "seen": ["x"]})
    assert run(workflow, "a", memory={"topic": "tea", "seen": [{"k": 1}]})[1] == ['tea 1 [{"k":1}]']
    assert run(workflow, "a", memory={"topic": "tea", "n": 7})[1] == ['tea 7 ["x"]']
    assert run(workflow, "a", memory={"topic": "tea", "seen": None})[1] == ["tea 1 []"]
    assert failed(workflow) == (
        "memory",
        "task 'a': nothing is written under 'topic' yet (allowed: n); give it an initial value, or read it with "
        "required=False",
    )
    assert failed(workflow, memory={"topc": "x"})[1] == "the workflow has no memory key 'topc' (did you mean 'topic'?)"
    assert "was given a list; write WorkflowBuilder(topic=[])" in failed(workflow, memory={"topic": ["x"]})[1]
    assert "holds a stack, but was given a str" in failed(workflow, memory={"seen": "x"})[1]


def test_what_is_put_in_is_not_read_again():
    assert run(asking("{{v}} {{w}}", {"v": "{{w}} \\1", "w": "{{v}}"}), "a")[1] == ["{{w}} \\1 {{v}}"]
    assert run(asking('{"a": {"b": {{v}}}} {{"c"}}', {"v": 1}), "a")[1] == ['{"a": {"b": 1}} {{"c"}}']


@pytest.mark.parametrize(
    ("wanted", "shown"),
    [
        (Pop.new("s"), "3"),
        (Peek.new("s"), "3"),
        (Peek.new("s", 0), "1"),
        (Peek.new("s", index=-2), "2"),
        (Peek.new("s", 7, False), ""),
        (GetAll.new("s"), "[1,2,3]"),
        (Size.new("s"), "3"),
    ],
)
def test_inputs_of_a_stack(wanted, shown):
    assert run(asking("<{{s}}>", {"s": [1, 2, 3]}, inputs=[wanted]), "a")[1] == [f"<{shown}>"]


def test_other_inputs():
    assert run(asking("<{{lit}}>", inputs=[String.new("lit")]), "a")[1] == ["<lit>"]
    assert run(asking("<{{v}}>", {"v": None}, inputs=[Read.new("v", False)]), "a")[1] == ["<>"]
    assert failed(asking("{{s}}", {"s": []}, inputs=[Pop.new("s")])) == (
        "memory",
        "task 'a': the stack 's' has nothing to pop (its size: 0)",
    )
    assert failed(asking("{{s}}", {"s": [1]}, inputs=[Peek.new("s", 1)]))[1] == (
        "task 'a': the stack 's' has nothing at 1 to peek (its size: 1)"
    )


def test_a_history_stands_before_the_prompt():
    history = [{"role": "system", "content": "speak {{language}}"}]
    caller = ScriptedCaller("a")
    asyncio.run(asking("hello", {"language": "Latin"}, msg_history=history).run(caller))
    assert [message["content"] for message in caller.asked[0].messages] == ["speak Latin", "hello"]


def popping():
    """Answers each question of a stack, the newest first."""
    builder = WorkflowBuilder(questions=["one", "two", "three"])
    builder.generative_step(
        "answer {{questions}}", id="answer", inputs=[Pop.new("questions")], outputs=[Push.new("answers")]
    )
    empty = ConditionBuilder.build(Size.new("questions"), Expression.EQUAL, 0, target_if_not="answer")
    return builder.flow([Edge("answer", "_end", empty)]).set_return_value("answers").build()


def test_a_stack_is_worked_off():
    workflow = popping()
    for _ in range(2):  # a row leaves nothing for the next
        value, asked = run(workflow, "3", "2", "1")
        assert (value, asked) == (["3", "2", "1"], ["answer three", "answer two", "answer one"])


def loop(**options):
    builder = WorkflowBuilder(topic="tea")
    builder.generative_step(id="write", prompt="write about {{topic}}", outputs=TEXT)
    builder.generative_step(id="judge", prompt="good? {{text}}", outputs=[Write.new("verdict")])
    given = {"input": Read.new("verdict"), "expression": Expression.CONTAINS, "expected": "yes"}
    condition = ConditionBuilder.build(**given | {"target_if_not": "write"} | options)
    flow = [Edge(source="write", target="judge"), Edge(source="judge", target="_end", condition=condition)]
    return builder.flow(flow).set_return_value("text")


def test_a_judge_sends_back():
    value, asked = run(loop().build(), "t1", "no", "t2", "no", "t3", "yes")
    assert value == "t3"
    assert asked == [
        "write about tea",
        "good? t1",
        "write about tea",
        "good? t2",
        "write about tea",
        "good? t3",
    ]


def test_too_few_steps():
    said = "the workflow ran 5 tasks without coming to its end (max_steps=5)"
    kind, message = failed(loop().set_max_steps(5).build(), "t1", "no", "t2", "no", "t3")
    assert (kind, message.partition(";")[0]) == ("limit", said)
    assert run(loop().set_max_steps(6).build(), "t1", "no", "t2", "no", "t3", "yes")[0] == "t3"


@pytest.mark.parametrize(
    ("expression", "expected", "verdict", "holds"),
    [
        (Expression.EQUAL, "yes", " yes\n", True),
        (Expression.EQUAL, "yes", "Yes", False),
        (Expression.NOT_EQUAL, "no", "no", False),
        (Expression.NOT_EQUAL, "no", "maybe", True),
        (Expression.CONTAINS, "yes", "oh yes!", True),
        (Expression.NOT_CONTAINS, "no", "yes", True),
        (Expression.NOT_CONTAINS, "no", "no way", False),
        (Expression.GREATER_THAN, 7, "8", True),
        (Expression.GREATER_THAN, 7, "7", False),
        (Expression.LESS_THAN, 7.5, " 7\n", True),
        (Expression.GREATER_THAN_OR_EQUAL, 7, "7.0", True),
        (Expression.LESS_THAN_OR_EQUAL, "7", "8", False),
    ],
)
def test_expressions(expression, expected, verdict, holds):
    workflow = loop(expression=expression, expected=expected).set_max_steps(2).build()
    if holds:
        assert run(workflow, "t", verdict)[0] == "t"
    else:
        assert failed(workflow, "t", verdict)[0] == "limit"


def test_what_cannot_be_compared_fails_the_row():
    workflow = loop(expression=Expression.GREATER_THAN, expected=7).build()
    assert failed(workflow, "t", "seven") == (
        "condition",
        "task 'judge': 'seven' under 'verdict' is not a number, so it cannot be compared with 7 (GreaterThan)",
    )


def test_a_list_contains_what_one_of_its_values_contains():
    builder = WorkflowBuilder(s=['say "yes"']).generative_step("p", id="a", outputs=TEXT)
    condition = ConditionBuilder.build(GetAll.new("s"), Expression.CONTAINS, '"yes"', "a")
    workflow = builder.flow([Edge("a", "_end", condition)]).set_max_steps(1).build()
    assert run(workflow, "t")[0] == "t"


def test_conditions_are_tried_in_order():
    builder = WorkflowBuilder().generative_step("kind?", id="kind", outputs=[Write.new("kind")])
    for name in ("poem", "prose", "other"):
        builder.generative_step(f"write {name}", id=name, outputs=TEXT)
    edges = [
        Edge("kind", name, ConditionBuilder.build(Read.new("kind"), Expression.EQUAL, name))
        for name in ("poem", "prose")
    ]
    ends = [Edge(name, "_end") for name in ("poem", "prose", "other")]
    workflow = builder.flow([*edges, Edge("kind", "other"), *ends]).set_return_value("text").build()
    for kind, way in (("poem", "poem"), ("prose", "prose"), ("list", "other")):
        assert run(workflow, kind, "t")[1] == ["kind?", f"write {way}"]


def test_no_condition_holds():
    builder = WorkflowBuilder().generative_step("p", id="a", outputs=TEXT)
    edge = Edge("a", "_end", ConditionBuilder.build(Read.new("text"), Expression.EQUAL, "x"))
    assert failed(builder.flow([edge]).build(), "y") == (
        "condition",
        "task 'a': no condition of its edges holds; add an edge without one",
    )


def rescued(fallback="b"):
    builder = WorkflowBuilder().generative_step("hard", id="a", schema=Verdict, outputs=[Write.new("score")])
    builder.generative_step("easy", id="b", outputs=[Write.new("score")])
    edges = [Edge("a", "_end", fallback=fallback), Edge("b", "_end")]
    return builder.flow(edges if fallback == "b" else [Edge("b", "a"), *edges[:1]]).set_return_value("score").build()


def test_a_task_that_fails_goes_to_its_fallback():
    assert run(rescued(), '{"score": 1}') == ({"score": 1}, ["hard"])
    value, asked = run(rescued(), "x", "y", "5")
    assert (value, asked[0], asked[-1]) == ("5", "hard", "easy")
    assert run(rescued(), CallError("gone", "server"), "5")[0] == "5"
    assert failed(rescued(), CallError("gone", "server"), RowError("gone too", "call")) == (
        "call",
        "task 'b': gone too",
    )
    assert failed(rescued("a"), "0", *[RowError("gone", "call")] * 60)[0] == "limit"


def test_a_fallback_to_the_end_says_why_nothing_is_returned():
    builder = WorkflowBuilder().generative_step("p", id="a", outputs=TEXT).set_return_value("text")
    workflow = builder.flow([Edge("a", "_end", fallback="_end")]).build()
    with pytest.raises(CallError, match="task 'a': gone") as caught:
        run(workflow, CallError("gone", "server", status=500))
    assert (caught.value.kind, caught.value.status) == ("server", 500)


def test_a_run_that_is_stopped_is_no_failure_of_a_task():
    class Halted(ScriptedCaller):
        async def complete(self, request, *, sample=0):
            raise HaltedError("stop")

    with pytest.raises(HaltedError):
        asyncio.run(rescued().run(Halted()))


def test_a_schema_gives_an_object():
    workflow = asking("score", schema=Verdict)
    assert run(workflow, '{"score": 3}')[0] == {"score": 3}
    caller = ScriptedCaller("{'score': 'x'}", '{"score": 4}')
    assert asyncio.run(workflow.run(caller)) == {"score": 4}
    assert len(caller.asked) == 2 and caller.asked[0].schema["properties"].keys() == {"score"}
    assert failed(workflow, "x", "y")[0] == "schema"
    assert failed(workflow, Completion('{"sc', "length", Usage(5, 7)))[0] == "length"


def test_an_object_is_shown_as_json():
    builder = WorkflowBuilder().generative_step(
        "score", id="a", schema=Verdict, outputs=[Write.new("v"), Push.new("s")]
    )
    workflow = builder.generative_step("{{v}} {{s}}", id="b").flow([Edge("a", "b")]).build()
    assert run(workflow, '{"score": 3}', "fine") == ("fine", ["score", '{"score":3} [{"score":3}]'])


def test_several_keys_are_a_mapping():
    builder = WorkflowBuilder().generative_step("p", id="a", outputs=[Write.new("text"), Push.new("all")])
    assert run(builder.set_return_value(["text", "all"]).build(), "t")[0] == {"text": "t", "all": ["t"]}
    assert run(builder.set_return_value(["text"]).build(), "t")[0] == {"text": "t"}


def test_a_return_value_that_its_way_did_not_write():
    builder = WorkflowBuilder(x="").generative_step("p", id="a", outputs=[Write.new("x")])
    builder.generative_step("q", id="b", outputs=TEXT).set_return_value("text")
    condition = ConditionBuilder.build(Read.new("x"), Expression.EQUAL, "go", "_end")
    workflow = builder.flow([Edge("a", "b", condition)]).build()
    assert run(workflow, "go", "t")[0] == "t"
    kind, message = failed(workflow, "stop")
    assert kind == "memory"
    assert "no task on its way wrote the return value 'text'" in message


def answer_of(tokens, finish_reason="stop"):
    return Completion("t", finish_reason, Usage(10, tokens))


def three(most):
    builder = WorkflowBuilder()
    for name in "abc":
        builder.generative_step("p", id=name, outputs=TEXT)
    return builder.flow([Edge("a", "b"), Edge("b", "c")]).set_max_tokens(most).build()


def test_answers_have_so_many_tokens_together():
    caller = ScriptedCaller(*[answer_of(40)] * 3)
    assert asyncio.run(three(120).run(caller, longest=100)) == "t"
    assert [request.max_tokens for request in caller.asked] == [100, 80, 40]
    said = "the answers reached 100 tokens (max_tokens=100); raise it with set_max_tokens"
    assert failed(three(100), *[answer_of(40)] * 2, answer_of(20, "length")) == ("limit", said)
    assert failed(three(100), *[answer_of(50)] * 2) == ("limit", said)
    assert failed(three(100), answer_of(101)) == ("limit", said)


class SlowCaller(ScriptedCaller):
    """Answers after a while, of which it may say that it only waited."""

    def __init__(self, *answers, waits):
        super().__init__(*answers)
        self._waits = waits
        self._began = time.monotonic()

    @property
    def waited_s(self):
        return time.monotonic() - self._began if self._waits else 0.0

    async def complete(self, request, *, sample=0):
        await asyncio.sleep(0.2)
        return await super().complete(request, sample=sample)


def test_time_is_up():
    began = time.monotonic()
    caller = SlowCaller("t", waits=False)
    workflow = loop().set_max_time(0.05).build()
    with pytest.raises(RowError, match=r"not finished after 0\.05 s, in task 'write' \(max_time=0\.05\)") as caught:
        asyncio.run(workflow.run(caller))
    assert caught.value.kind == "limit"
    assert time.monotonic() - began < 5
    assert caller.asked == []


def test_waiting_to_be_sent_is_not_counted():
    caller = SlowCaller("t", "yes", waits=True)
    assert asyncio.run(loop().set_max_time(0.05).build().run(caller)) == "t"


def test_a_row_that_is_cancelled_cancels_its_call():
    async def cancelled():
        running = asyncio.ensure_future(loop().build().run(caller))
        await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return running.cancelled()

    caller = SlowCaller("t", waits=False)
    assert asyncio.run(cancelled())
    assert caller.asked == []
