"""Asking a model about a row: what is declared, what is sent, which columns come back."""

from __future__ import annotations

import asyncio
import json
import pickle
import sys

import pytest
from pydantic import BaseModel

from raypipe.contracts.llm import LLM, Completion, Usage
from raypipe.contracts.step import Shape
from raypipe.errors import RowError, SpecError
from raypipe.steps.tasks import TextGeneration
from tests.steps.scripted import ScriptedCaller

WRITER = LLM("offline/writer")
TOPICS = {
    "type": "object",
    "properties": {"topics": {"type": "array", "items": {"type": "string"}}},
    "required": ["topics"],
}


class Pair(BaseModel):
    question: str
    score: int


class Pairs(BaseModel):
    pairs: list[Pair]


def generation(*args, **fields):
    return TextGeneration(*args, **({"llm": WRITER} | fields))


def ask(step, row, *answers, by_sample=False):
    caller = ScriptedCaller(*answers, by_sample=by_sample)
    travelled = pickle.loads(pickle.dumps(step))
    travelled.open()
    return asyncio.run(travelled.process_row(row, caller)), caller


def two_parts(text):
    return tuple(text.split("|"))


# What is sent.


def test_by_default_the_instruction_is_sent_as_it_is():
    step = generation()
    made, caller = ask(step, {"instruction": "say {{ hi }}\n"}, " hi ")
    assert made == {"generation": "hi"}
    assert caller.asked[0].messages == ({"role": "user", "content": "say {{ hi }}\n"},)
    assert caller.asked[0].schema is None
    assert (step.reads(), step.writes(), step.shape) == (("instruction",), {"generation": "string"}, Shape.MAP)


def test_both_templates_and_columns_are_read():
    step = generation(template="{{ topic }} in {{ n }}", system_prompt="Be {{ tone }}.", columns=["extra", "topic"])
    assert step.reads() == ("n", "tone", "topic", "extra")
    _, caller = ask(step, {"topic": "ML", "n": 3, "tone": None, "extra": 1}, "x")
    assert caller.asked[0].messages == (
        {"role": "system", "content": "Be ."},
        {"role": "user", "content": "ML in 3"},
    )


def test_a_row_that_the_template_does_not_fit_costs_no_call():
    step = generation(template="{{ a.b }}")
    caller = ScriptedCaller()
    with pytest.raises(RowError) as caught:
        asyncio.run(step.process_row({"a": {}}, caller))
    assert caught.value.kind == "template"
    assert caller.asked == []


def test_a_template_file_is_read_once_relative_to_its_folder(tmp_path):
    (tmp_path / "prompts").mkdir()
    file = tmp_path / "prompts" / "ask.md"
    file.write_text("About {{ topic }}\n")
    step = generation("ask", template_file="prompts/ask.md", base_dir=str(tmp_path))
    file.unlink()
    _, caller = ask(step, {"topic": "ML"}, "x")
    assert caller.asked[0].messages[0]["content"] == "About ML"
    assert step.model_dump()["template"] == "About {{ topic }}\n"


def test_equality_is_what_files_say_not_where_they_are(tmp_path):
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.md").write_text("{{ q }}" if folder != "c" else "other")
    one, two, three = (generation("s", template_file="x.md", base_dir=str(tmp_path / folder)) for folder in "abc")
    assert one == two
    assert one != three
    assert one == generation("s", template="{{ q }}")
    one.open()
    assert one == two, "what a worker prepared does not count"


def test_written_down_it_needs_no_files(tmp_path):
    (tmp_path / "x.md").write_text("{{ q }}")
    (tmp_path / "schema.json").write_text(json.dumps(TOPICS))
    step = generation("s", template_file="x.md", structured_output="schema.json", base_dir=str(tmp_path))
    options = step.model_dump(by_alias=True, exclude_defaults=True, exclude={"llm"})
    assert options["template"] == "{{ q }}"
    assert "base_dir" not in options
    assert generation(**options) == step
    assert step.model_dump()["template"] == "{{ q }}"


# Text.


@pytest.mark.parametrize(
    ("fields", "answer", "made", "types"),
    [
        ({"output": "sub"}, " x ", {"sub": "x"}, {"sub": "string"}),
        ({"parse": "lines"}, "1. a\n2. b", {"generation": ["a", "b"]}, {"generation": "list<string>"}),
        ({"parse": "json", "output": "j"}, '{"a": 1}', {"j": {"a": 1}}, {"j": ""}),
        ({"parse": "json", "outputs": ["a", "b"]}, '{"a": 1, "b": 2, "c": 3}', {"a": 1, "b": 2}, {"a": "", "b": ""}),
        ({"parse": two_parts, "outputs": ["a", "b"]}, "x|y", {"a": "x", "b": "y"}, {"a": "", "b": ""}),
        ({"parse": "lines", "outputs": ["a", "b"]}, "x\ny", {"a": "x", "b": "y"}, {"a": "string", "b": "string"}),
        ({"parse": "tags", "outputs": ["a"]}, "<a>x</a><b>y</b>", {"a": "x"}, {"a": "string"}),
        ({"parse": "tags", "output": "a"}, "<a>x</a><b>y</b>", {"a": "x"}, {"a": "string"}),
        ({"parse": "tags"}, "<a>x</a>", {"generation": {"a": "x"}}, {"generation": ""}),
        (
            {"parse": "regex", "pattern": r"(?P<n>\d+) of (?P<m>\d+)"},
            "3 of 4",
            {"n": "3", "m": "4"},
            {"n": "string", "m": "string"},
        ),
        ({"parse": "regex", "pattern": r"\d+", "output": "n"}, "it is 3", {"n": "3"}, {"n": "string"}),
        ({"add_model_name": True}, "x", {"generation": "x", "model_name": "offline/scripted"}, None),
    ],
)
def test_text_becomes_columns(fields, answer, made, types):
    step = generation(**fields)
    assert step.problems() == []
    assert ask(step, {"instruction": "?"}, answer)[0] == made
    assert step.writes() == (types or {"generation": "string", "model_name": "string"})


def test_scatter_makes_a_row_of_each_item():
    step = generation("subs", parse="comma_list", output="sub").scatter()
    made, _ = ask(step, {"instruction": "?"}, "a, b, c.")
    assert made == [{"sub": "a"}, {"sub": "b"}, {"sub": "c"}]
    assert (step.shape, step.writes()) == (Shape.SCATTER, {"sub": "string"})


def test_scattered_objects_become_columns_and_an_empty_list_no_rows():
    step = generation(parse="json_list", outputs=["q", "a"], scatter=True)
    answer = '[{"q": 1, "a": 2}, {"q": 3, "a": 4}]'
    assert ask(step, {"instruction": "?"}, answer)[0] == [{"q": 1, "a": 2}, {"q": 3, "a": 4}]
    assert ask(step, {"instruction": "?"}, "[]")[0] == []


def test_scatter_of_what_is_no_list_fails_the_row():
    step = generation(parse="json", output="a", scatter=True)
    with pytest.raises(RowError, match="scatter needs a list, but the completion was parsed as dict"):
        ask(step, {"instruction": "?"}, '{"a": 1}')


def test_a_cut_text_that_cannot_be_parsed_says_so():
    with pytest.raises(RowError, match="cut at max_tokens=9; raise max_tokens") as caught:
        ask(generation(parse="tags"), {"instruction": "?"}, Completion("<a>x", "length", Usage(1, 9)))
    assert caught.value.kind == "length"
    assert ask(generation(), {"instruction": "?"}, Completion("cut off", "length"))[0] == {"generation": "cut off"}


# Schemas.


def test_each_property_is_a_column():
    step = generation(structured_output=Pair)
    made, caller = ask(step, {"instruction": "?"}, '{"question": "q", "score": "3"}')
    assert made == {"question": "q", "score": 3}
    assert step.writes() == {"question": "string", "score": "int64"}
    assert caller.asked[0].schema is not None


def test_a_missing_optional_property_is_null():
    schema = {"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "number"}}}
    step = generation(structured_output=schema)
    assert ask(step, {"instruction": "?"}, '{"a": "x"}')[0] == {"a": "x", "b": None}
    assert step.writes() == {"a": "string", "b": "double"}


@pytest.mark.parametrize(
    ("fields", "answer", "made", "types"),
    [
        ({"structured_output": TOPICS, "output": "t"}, '{"topics": ["a"]}', {"t": ["a"]}, {"t": "list<string>"}),
        ({"structured_output": Pair, "output": "p"}, '{"question": "q", "score": 1}', None, {"p": ""}),
        ({"structured_output": Pair, "outputs": ["score"]}, '{"question": "q", "score": 1}', {"score": 1}, None),
        ({"structured_output": {"type": "string"}}, '"x"', {"generation": "x"}, {"generation": "string"}),
    ],
)
def test_where_the_answer_goes(fields, answer, made, types):
    step = generation(**fields)
    assert step.problems() == []
    assert ask(step, {"instruction": "?"}, answer)[0] == (made or {"p": {"question": "q", "score": 1}})
    assert step.writes() == (types or {"score": "int64"})


@pytest.mark.parametrize(
    ("fields", "answer", "made", "types"),
    [
        (
            {"structured_output": TOPICS},
            '{"topics": ["a", "b"]}',
            [{"topics": "a"}, {"topics": "b"}],
            {"topics": "string"},
        ),
        ({"structured_output": TOPICS, "output": "t"}, '{"topics": ["a"]}', [{"t": "a"}], {"t": "string"}),
        ({"structured_output": TOPICS, "output": "t"}, '{"topics": []}', [], {"t": "string"}),
        (
            {"structured_output": Pairs, "outputs": ["question", "score"]},
            '{"pairs": [{"question": "q", "score": 1}]}',
            [{"question": "q", "score": 1}],
            {"question": "string", "score": "int64"},
        ),
        (
            {"structured_output": Pairs, "output": "pair"},
            '{"pairs": [{"question": "q", "score": 1}]}',
            [{"pair": {"question": "q", "score": 1}}],
            {"pair": ""},
        ),
        (
            {"structured_output": {"type": "array", "items": {"type": "integer"}}, "output": "n"},
            "[1, 2]",
            [{"n": 1}, {"n": 2}],
            {"n": "int64"},
        ),
    ],
)
def test_scattered_schemas(fields, answer, made, types):
    step = generation(**fields).scatter()
    assert step.problems() == []
    assert ask(step, {"instruction": "?"}, answer)[0] == made
    assert step.writes() == types


def test_schemas_come_from_files_and_dotted_paths(tmp_path):
    (tmp_path / "topics.json").write_text(json.dumps(TOPICS))
    step = generation(structured_output="topics.json", base_dir=str(tmp_path))
    assert step.writes() == {"topics": "list<string>"}
    assert generation(structured_output=f"{__name__}:Pair").writes() == {"question": "string", "score": "int64"}


# Several answers.


def test_several_answers_are_asked_at_once_and_become_rows():
    step = generation(num_generations=3, add_model_name=True)
    made, caller = ask(step, {"instruction": "?"}, "a", "b", "c", by_sample=True)
    assert [row["generation"] for row in made] == ["a", "b", "c"]
    assert {row["model_name"] for row in made} == {"offline/scripted"}
    assert caller.samples == [0, 1, 2]
    assert len({id(request) for request in caller.asked}) == 1
    assert step.shape is Shape.SCATTER


def test_grouped_answers_stay_in_their_row():
    step = generation(num_generations=2, group_generations=True, add_model_name=True)
    made, _ = ask(step, {"instruction": "?"}, "a", "b", by_sample=True)
    assert made == {"generation": ["a", "b"], "model_name": "offline/scripted"}
    assert step.writes() == {"generation": "list<string>", "model_name": "string"}
    assert step.shape is Shape.MAP
    assert ask(generation(group_generations=True), {"instruction": "?"}, "a")[0] == {"generation": ["a"]}


def test_several_scattered_answers_give_all_their_items():
    step = generation(num_generations=2, parse="lines", scatter=True)
    made, _ = ask(step, {"instruction": "?"}, "a\nb", "c", by_sample=True)
    assert [row["generation"] for row in made] == ["a", "b", "c"]


def test_one_failed_answer_fails_the_row_once_the_others_are_there():
    step = generation(num_generations=3)
    caller = ScriptedCaller(RowError("gone", "call"), "b", "c", by_sample=True)
    with pytest.raises(RowError, match="gone"):
        asyncio.run(step.process_row({"instruction": "?"}, caller))
    assert caller.answered == 3


# What is refused.


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"template": "{{ a }"}, "line 1: unexpected '}'"),
        ({"system_prompt": "{% if %}"}, "line 1"),
        ({"template": "x", "template_file": "x.md"}, "exclude each other"),
        ({"template_file": "nowhere/x.md"}, r"cannot read .*nowhere/x\.md"),
        ({"output": "a", "outputs": ["b"]}, "exclude each other"),
        ({"outputs": ["a", "a"]}, "each only once"),
        ({"outputs": []}, "at least one column"),
        ({"parse": "jsn"}, "did you mean 'json'"),
        ({"parse": "regex"}, "pattern: is required"),
        ({"structured_output": TOPICS, "parse": "json"}, "leave parse and pattern out"),
        ({"structured_output": {"type": "objct"}}, "is not a JSON Schema"),
        ({"structured_output": "nowhere.json"}, "structured_output: cannot read"),
        ({"num_generations": 0}, "num_generations"),
        ({"tempalte": "x"}, "unknown option 'tempalte'.*did you mean 'template'"),
    ],
)
def test_unsound_options_are_refused_when_the_step_is_made(fields, said):
    with pytest.raises(SpecError, match=said) as caught:
        generation("bad", **fields)
    assert "TextGeneration 'bad'" in str(caught.value)


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(SpecError) as caught:
        generation("bad", template="{{", outputs=["a", "a"], parse="jsn", structured_output={"type": "objct"})
    assert len(caught.value.violations) >= 4


def test_a_schema_file_that_is_no_json_is_refused(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(SpecError, match=r"'x\.json' is not JSON"):
        generation(structured_output="x.json", base_dir=str(tmp_path))


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda: TextGeneration(template="x"), "asks a model but has none"),
        (lambda: generation().scatter(), "parse='text' gives none"),
        (lambda: generation(outputs=["a", "b"]), "one value for 2 columns"),
        (lambda: generation(structured_output=Pair).scatter(), "neither a list nor an object with a list"),
        (lambda: generation(structured_output=Pair, outputs=["scor"]), "no property 'scor' (it has: question, score)"),
        (lambda: generation(structured_output=Pairs, outputs=["x"]).scatter(), "no property 'x'"),
        (lambda: generation(parse="regex", pattern="(?P<a>x)", output="b"), "the pattern has the groups a"),
        (lambda: generation(parse="lines", group_generations=True).scatter(), "leave one of them out"),
        (lambda: generation(output="model_name", add_model_name=True), "twice"),
    ],
)
def test_problems_that_only_the_finished_step_has(step, said):
    made = step()
    assert [problem for problem in made.problems() if said in problem]
    with pytest.raises(SpecError):
        made.open()


def test_a_parser_that_a_worker_cannot_import_is_found_before_its_first_row(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "parser_of_a_worker.py"
    module.write_text("def parse(text):\n    return text\n")
    step = pickle.loads(pickle.dumps(generation(parse="parser_of_a_worker:parse")))
    module.write_text('raise RuntimeError("no license on this machine")\n')
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for cached in tmp_path.glob("__pycache__/*"):
        cached.unlink()
    del sys.modules["parser_of_a_worker"]
    with pytest.raises((RuntimeError, SpecError), match=r"parser_of_a_worker|no license"):
        step.open()
