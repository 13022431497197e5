"""What is wrong with a workflow is said when it is built, all of it."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from raypipe.errors import SpecError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.workflows import (
    ConditionBuilder,
    Edge,
    Expression,
    GetAll,
    Insert,
    Operator,
    Peek,
    Pop,
    Push,
    Read,
    Size,
    String,
    Workflow,
    WorkflowBuilder,
    Write,
    get_abs_path,
)
from raypipe.workflows.workflow_step import WorkflowStep

HERE = Path(__file__).parent


class Verdict(BaseModel):
    """What a judge says."""

    score: int


def said(builder: WorkflowBuilder) -> list[str]:
    """What is wrong, one sentence each."""
    with pytest.raises(SpecError) as caught:
        builder.build()
    return [str(violation) for violation in caught.value.violations]


def one(prompt="p", memory=None, **options):
    return WorkflowBuilder(memory or {}).generative_step(prompt, **{"id": "a"} | options)


def test_a_program_of_dria():
    builder = WorkflowBuilder(instruction="Write a haiku")
    builder.set_max_time(50)
    builder.generative_step(
        id="generate_variations",
        prompt="Rewrite 5 variations. Instruction: {{instruction}}. New instructions:",
        operator=Operator.GENERATION,
        outputs=[Write.new("variations")],
    )
    builder.flow([Edge(source="generate_variations", target="_end")])
    builder.set_return_value("variations")
    workflow = builder.build()
    (task,) = workflow.tasks
    assert (workflow.start, workflow.returned_keys, workflow.limits.max_time) == (task.id, ("variations",), 50)
    assert task.inputs == (Read.new("instruction"),)
    assert builder.build() == workflow
    assert builder.build_to_dict() == workflow.to_dict()


def test_placeholders_become_inputs_by_what_the_memory_holds():
    builder = WorkflowBuilder(topic="tea", seen=[])
    builder.generative_step("{{topic}} {{ seen }} {{topic}}", id="a", outputs=[Push.new("made"), Write.new("text")])
    builder.generative_step("{{made}} {{text}} {{size}}", id="b", inputs=[String.new("size"), Pop.new("made")])
    builder.flow([Edge("a", "b")])
    first, second = builder.build().tasks
    assert first.inputs == (Read.new("topic"), GetAll.new("seen"))
    assert second.inputs == (String.new("size"), Pop.new("made"), Read.new("text"))


def test_what_was_given_is_not_changed():
    memory, history = {"a": ["x"], "n": 3}, [{"role": "system", "content": "be brief"}]
    builder = WorkflowBuilder(memory).generative_step("{{a}} {{n}}", msg_history=history, id="a")
    workflow = builder.build()
    memory["a"].append("y")
    history[0]["content"] = "be long"
    assert workflow.memory == {"a": ["x"], "n": 3}
    assert workflow.tasks[0].messages[0]["content"] == "be brief"
    assert len(history) == 1 and builder.build() == workflow


def test_the_last_task_leads_to_the_end_by_itself():
    assert one().build().edges == (Edge("a", "_end"),)
    builder = one().generative_step("q", id="b").flow([Edge("a", "b")])
    assert builder.build().edges[-1] == Edge("b", "_end")
    unnamed = WorkflowBuilder().generative_step("p").generative_step("q").flow([Edge("0", "1")]).build()
    assert [task.id for task in unnamed.tasks] == ["0", "1"]


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"prompt": None}, "task 'a': has no prompt; give it prompt=… or path=…"),
        ({"prompt": ""}, "task 'a': has no prompt; give it prompt=… or path=…"),
        ({"path": "p.md"}, "task 'a': has both a prompt and a path; leave one of them out"),
        (
            {"prompt": "{{x}}"},
            "task 'a': missing required input 'x': nothing gives {{x}} a value; for what a row brings, "
            "write WorkflowBuilder(x=None)",
        ),
        (
            {"prompt": "{{topics}}", "memory": {"topic": ""}},
            "task 'a': missing required input 'topics': nothing gives {{topics}} a value (did you mean 'topic'?); "
            "for what a row brings, write WorkflowBuilder(topics=None)",
        ),
        (
            {"prompt": "{{ topic | upper }}", "memory": {"topic": ""}},
            "task 'a': {{ topic | upper }} computes something, but a placeholder is only a name; write {{topic}}",
        ),
        (
            {"inputs": [Read.new("x")]},
            "task 'a': missing required input 'x': Read.new('x') finds no such memory key",
        ),
        (
            {"inputs": [GetAll.new("x")], "memory": {"x": ""}},
            "task 'a': GetAll.new('x'): the key holds text; use Read",
        ),
        (
            {"inputs": [Read.new("x")], "memory": {"x": []}},
            "task 'a': Read.new('x'): the key holds a stack; use GetAll, Pop, Peek or Size",
        ),
        (
            {"inputs": [Pop.new("x"), Size.new("x")], "memory": {"x": []}},
            "task 'a': has 2 inputs for {{x}}; leave one",
        ),
        ({"inputs": ["x"]}, "task 'a': inputs are a list of Read.new(key), got 'x'"),
        ({"outputs": ["x"]}, "task 'a': outputs are a list of Write.new(key), got 'x'"),
        (
            {"outputs": [Insert.new("x")]},
            "task 'a': inserts into 'x', but raypipe has no search memory; use Push and GetAll",
        ),
        ({"id": "_end"}, "task '_end': an id is text other than '_end'"),
        ({"promt": "x"}, "task 'a': unknown option 'promt' (allowed: id, inputs, msg_history, outputs, path, schema)"),
        ({"operator": "generate"}, "task 'a': there is no operator 'generate' (did you mean 'generation'?)"),
        (
            {"schema": {"type": "objct"}},
            "task 'a': schema: type is not a JSON Schema: 'objct' is not valid under any of the given schemas",
        ),
        (
            {"msg_history": [{"role": "robot", "content": "x"}]},
            'task \'a\': msg_history: a message is {"role": system | user | assistant | tool, "content": text}, '
            "got {'role': 'robot', 'content': 'x'}",
        ),
        (
            {"operator": Operator.SEARCH, "msg_history": [{"role": "user", "content": "x"}]},
            "task 'a': msg_history: a search has a query and no messages before it; leave it out",
        ),
        ({"operator": Operator.SAMPLE}, "task 'a': SAMPLE is not an operator of a task here; use GENERATION"),
        (
            {"memory": {"x": {"a": 1}}},
            "memory key 'x': holds text, a number, a boolean or a list, not a dict; write it as text",
        ),
        (
            {"memory": {"x": []}, "outputs": [Write.new("x")]},
            "workflow: memory key 'x' is text in one place and a stack in another; give them different names",
        ),
    ],
)
def test_an_unsound_task(options, problem):
    assert said(one(**options)) == [problem]


def test_a_schema_is_for_generation():
    problems = said(one(operator=Operator.FUNCTION_CALLING, schema=Verdict))
    assert problems == [
        "task 'a': has a schema, which is for GENERATION; FUNCTION_CALLING answers with a call",
        "task 'a': FUNCTION_CALLING has no tools to call; add one with add_custom_tool",
    ]


def test_tools_of_a_node_are_refused():
    assert "set_tools(['jina']): raypipe does not have a node's tools" in said(one().set_tools(["jina"]))[0]
    assert "a dict is not executed here; write a CustomTool" in said(one().add_custom_tool({"url": "http://x"}))[0]


def judged(**options):
    given = {"input": Read.new("ok"), "expression": Expression.EQUAL, "expected": "yes", "target_if_not": "a"}
    condition = ConditionBuilder.build(**given | options)
    builder = one(outputs=[Write.new("text")]).generative_step("ok? {{text}}", id="b", outputs=[Write.new("ok")])
    return builder.flow([Edge("a", "b"), Edge("b", "_end", condition)])


def test_a_sound_condition():
    assert judged(expected=True).build().edges[1].condition.expected == "True"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"input": Read.new("no")}, "missing required input 'no': Read.new('no') finds no such memory key"),
        ({"input": Size.new("ok")}, "Size.new('ok'): the key holds text; use Read"),
        ({"expression": Expression.HAVE_SIMILAR}, "HAVE_SIMILAR needs a search memory"),
        ({"expression": Expression.LESS_THAN}, "LessThan compares numbers, and 'yes' is not one; expect a number"),
    ],
)
def test_an_unsound_condition(options, problem):
    (found,) = said(judged(**options))
    assert found.startswith(f"edge 'b' → '_end': condition: {problem}")


def test_edges_that_lead_nowhere():
    condition = ConditionBuilder.build(Read.new("x"), Expression.EQUAL, "y", "dd")
    builder = one(outputs=[Write.new("x")]).generative_step("q", id="b")
    assert said(builder.flow([Edge("a", "bb", condition, "c"), Edge("aa", "b"), Edge("a", "_end")])) == [
        "edge 'a' → 'bb': target: there is no task 'bb' (did you mean 'b'?)",
        "edge 'a' → 'bb': target_if_not: there is no task 'dd' (allowed: _end, a, b)",
        "edge 'a' → 'bb': fallback: there is no task 'c' (allowed: _end, a, b)",
        "edge 'aa' → 'b': source: there is no task 'aa' (did you mean 'a'?)",
        "edge 'a' → '_end': is never taken: an edge of 'a' before it always decides; remove one",
    ]


def test_tasks_without_a_way():
    builder = one().generative_step("q", id="b").generative_step("r", id="c")
    assert said(builder)[0] == ("task 'a': has no outgoing edges; add Edge(source='a', target='_end') to the flow")
    assert said(builder.flow([Edge("a", "c"), Edge("b", "c")])) == [
        "task 'b': is never reached from 'a', where the first edge begins; add an edge to it"
    ]


def test_all_violations_come_at_once():
    builder = one("{{x}}").generative_step("q", id="a").set_return_value(["y", "z"]).set_max_steps(0)
    assert said(builder.set_max_tokens(-1).set_max_time(0)) == [
        "workflow: max_time must be a number above 0, got 0",
        "workflow: max_steps must be a whole number above 0, got 0",
        "workflow: max_tokens must be a whole number above 0, or None, got -1",
        "workflow: has 2 tasks with the id 'a'; give each an id of its own",
        "task 'a': missing required input 'x': nothing gives {{x}} a value; for what a row brings, "
        "write WorkflowBuilder(x=None)",
        "return value: no task writes 'y'",
        "return value: no task writes 'z'",
    ]
    assert said(WorkflowBuilder()) == ["workflow: has no tasks; add one with generative_step"]


def test_what_is_of_another_kind():
    assert said(WorkflowBuilder("tea").generative_step("p")) == [
        "memory: is a mapping of names to values, got 'tea'; write WorkflowBuilder(name=value)"
    ]
    assert said(one(msg_history=["hi"])) == [
        """task 'a': msg_history are a list of {"role": …, "content": …}, got 'hi'"""
    ]
    assert said(one().flow([("a", "_end")])) == ["flow: edges are a list of Edge(source, target), got ('a', '_end')"]
    assert said(one(prompt=None, path=5)) == ["task 'a': has no prompt; give it prompt=… or path=…"]
    assert said(one().set_max_steps(2.5)) == ["workflow: max_steps must be a whole number above 0, got 2.5"]
    with pytest.raises(SpecError, match=r"there is no expression 'Equals' \(did you mean 'Equal'\?\)"):
        ConditionBuilder.build(Read.new("x"), "Equals", 1)


def test_a_prompt_stands_beside_the_program():
    workflow = WorkflowBuilder(topic="tea").generative_step(path="prompt.md", id="a").build()
    assert workflow.tasks[0].messages[0]["content"] == "Write about {{topic}}.\nBe brief."
    absolute = WorkflowBuilder(topic="tea").generative_step(path=get_abs_path("prompt.md"), id="a").build()
    assert absolute == workflow


def test_a_path_without_file_that_has_placeholders_is_the_prompt():
    workflow = WorkflowBuilder(instruction="").generative_step(path="{{instruction}}", id="a").build()
    assert workflow.tasks[0].messages[0]["content"] == "{{instruction}}"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        ("prompt.txt", "path='prompt.txt' is not a .md file; name one that ends in .md, or write prompt=…"),
        (
            "missing.md",
            f"there is no prompt file '{HERE / 'missing.md'}'; a relative path starts from the folder of the program "
            "that calls",
        ),
        ("/no/{{x}}.md", "there is no prompt file '/no/{{x}}.md'"),
    ],
)
def test_a_prompt_that_is_not_there(path, problem):
    assert said(WorkflowBuilder(x="").generative_step(path=path, id="a")) == [f"task 'a': {problem}"]


def full() -> Workflow:
    builder = WorkflowBuilder(topic="tea", n=3, seen=["x"], given=None)
    builder.generative_step(
        "{{topic}} {{seen}}", id="a", inputs=[Peek.new("seen", 0, False)], outputs=[Push.new("made")], schema=Verdict
    )
    builder.generative_step("{{made}}", id="b", msg_history=[{"role": "system", "content": "{{n}}"}])
    builder.flow(
        [
            Edge("a", "b", ConditionBuilder.build(Size.new("made"), Expression.GREATER_THAN, 2, "a"), fallback="_end"),
            Edge("b", "_end"),
        ]
    )
    return builder.set_max_tokens(100).set_max_steps(5).set_return_value(["made"]).build()


def test_a_workflow_is_saved_and_loaded(tmp_path):
    workflow = full()
    workflow.save(tmp_path / "w.json")
    with pytest.raises(SpecError, match=f"allow {__name__!r} with --allow-import"):
        Workflow.load(tmp_path / "w.json")
    again = Workflow.load(tmp_path / "w.json", allow_import=[__name__])
    assert again.to_dict() == workflow.to_dict()
    assert again == workflow
    assert again.tasks[0].schema is not None
    assert again.tasks[0].schema.declared is Verdict


def test_a_workflow_whose_class_nobody_else_can_import_is_not_saved(tmp_path):
    class Inner(BaseModel):
        fine: bool

    workflow = WorkflowBuilder().generative_step("go", id="a", schema=Inner, outputs=[Write.new("x")]).build()
    with pytest.raises(
        SpecError, match=r"task 'a': schema .*<locals>\.Inner cannot be imported by a reader of the file"
    ):
        workflow.save(tmp_path / "w.json")
    with Pipeline("inner") as pipeline:
        LoadDataFromDicts([{"n": 1}]) >> WorkflowStep("work", llm=LLM("offline/m"), workflow=workflow, output="y")
    assert len(pipeline.run(tmp_path / "out", engine="local")["work"]) == 1
    with pytest.raises(SpecError, match=r"step 'work': .*<locals>\.Inner cannot be imported by a reader of the file"):
        pipeline.save(tmp_path / "p.yaml")


@pytest.mark.parametrize(
    ("plain", "problem"),
    [
        ({}, "is not in the form that Workflow.save writes"),
        ({"tasks": [], "steps": [], "config": {"max_stp": 3}}, "is not in the form"),
        ({"tasks": [{"id": "a", "messages": [{"role": "user", "content": "{{x}}"}]}], "steps": []}, "no outgoing"),
        ({"tasks": 5, "steps": []}, "is not in the form"),
    ],
)
def test_what_is_no_workflow_is_refused(plain, problem):
    with pytest.raises(SpecError, match=problem):
        Workflow.from_dict(plain)


def test_a_file_that_cannot_be_read(tmp_path):
    (tmp_path / "w.json").write_text("{")
    for path in (tmp_path / "w.json", tmp_path / "none.json"):
        with pytest.raises(SpecError, match="cannot be read"):
            Workflow.load(path)
