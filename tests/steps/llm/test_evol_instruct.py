"""Instructions that get harder round after round."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path

import pytest

from raypipe.contracts.llm import LLM, Completion
from raypipe.contracts.step import Shape
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.llm.evol_instruct import MUTATIONS, EvolInstruct
from raypipe.steps.tasks import SelfInstruct, TextClassification
from tests.books import balanced_run, user_rows
from tests.steps.scripted import ScriptedCaller

MARKS = {name: f"{name}: <PROMPT>" for name in MUTATIONS}


def step(**fields):
    return EvolInstruct(llm=LLM("offline/x"), add_model_name=False, **fields)


def ask(step, *answers, instruction="Count.", by_sample=False):
    caller = ScriptedCaller(*answers, by_sample=by_sample)
    return asyncio.run(pickle.loads(pickle.dumps(step)).process_row({"instruction": instruction}, caller)), caller


def prompts(caller):
    return [request.messages[-1]["content"] for request in caller.asked]


@pytest.mark.parametrize(
    ("fields", "answers", "made"),
    [
        ({}, ["a"], {"evolved_instruction": "a"}),
        ({"num_evolutions": 2}, ["a", " b "], {"evolved_instruction": "b"}),
        (
            {"num_evolutions": 2, "generate_answers": True},
            ["a", "b", "B"],
            {"evolved_instruction": "b", "answer": "B"},
        ),
        ({"num_evolutions": 2, "store_evolutions": True}, ["a", "b"], {"evolved_instructions": ["a", "b"]}),
        (
            {"store_evolutions": True, "include_original_instruction": True, "generate_answers": True},
            ["a", "O", "A"],
            {"evolved_instructions": ["Count.", "a"], "answers": ["O", "A"]},
        ),
    ],
)
def test_what_is_kept(fields, answers, made):
    declared = step(**fields)
    assert ask(declared, *answers)[0] == made
    kind = "list<string>" if "store_evolutions" in fields else "string"
    assert declared.writes() == dict.fromkeys(made, kind)
    assert declared.problems() == []


def test_a_round_builds_on_the_one_before():
    made = step(num_evolutions=3, mutation_templates={"only": "Harder: <PROMPT>!"}, generate_answers=True)
    _, caller = ask(made, "a", "b", "c", "C")
    assert prompts(caller) == ["Harder: Count.!", "Harder: a!", "Harder: b!", "c"]


def chosen(instruction, sample_count=1, **fields):
    made = step(num_evolutions=6, mutation_templates=MARKS, num_generations=sample_count, **fields)
    answers = [instruction] * (sample_count if sample_count > 1 else 6)
    caller = ask(made, *answers, instruction=instruction, by_sample=sample_count > 1)[1]
    return [prompt.partition(":")[0] for prompt in prompts(caller)]


def test_the_mutations_follow_from_the_row_and_the_seed():
    assert chosen("Count.") == chosen("Count.")
    assert chosen("Count.") == ["constraints", "concretizing", "breadth", "breadth", "breadth", "breadth"]
    assert chosen("Count.") != chosen("Sing.")
    assert chosen("Count.") != chosen("Count.", seed=43)
    assert {name for number in range(9) for name in chosen(f"Count {number}.")} == set(MUTATIONS)


def test_several_generations_evolve_apart():
    made = step(num_evolutions=2, num_generations=2, group_generations=True, store_evolutions=True)
    found, caller = ask(made, "a", "b", by_sample=True)
    assert found == {"evolved_instructions": [["a", "a"], ["b", "b"]]}
    assert sorted(caller.samples) == [0, 0, 1, 1]
    names = chosen("Count.", sample_count=2)
    assert names[0::2] != names[1::2]


def test_rounds_may_become_rows():
    made = step(num_evolutions=2, store_evolutions=True, generate_answers=True).scatter()
    assert ask(made, "a", "b", "A", "B")[0] == [
        {"evolved_instructions": "a", "answers": "A"},
        {"evolved_instructions": "b", "answers": "B"},
    ]
    assert made.shape is Shape.SCATTER


@pytest.mark.parametrize(
    ("answer", "kind"),
    [(" ", "parse"), (Completion("half of", "length"), "length"), (RowError("gone", "call"), "call")],
)
def test_a_round_without_instruction_fails_the_row(answer, kind):
    with pytest.raises(RowError) as caught:
        ask(step(num_evolutions=3), "a", answer)
    assert caught.value.kind == kind


def test_every_mutation_shows_the_instruction_once():
    assert len(MUTATIONS) == 5
    assert all(template.count("<PROMPT>") == 1 and "{" not in template for template in MUTATIONS.values())


def test_what_is_unsound():
    assert "needs a list to be in" in step(include_original_instruction=True).problems()[0]
    assert "mutation_templates['x'] has no <PROMPT>" in step(mutation_templates={"x": "y"}).problems()[0]
    for fields in ({"num_evolutions": 0}, {"mutation_templates": {}}):
        with pytest.raises(SpecError, match=next(iter(fields))):
            step(**fields)


MODEL = LLM("offline/stand-in")


def test_instructions_that_a_task_makes_are_evolved_and_labelled_one_by_one(tmp_path: Path) -> None:
    with Pipeline("chain") as pipeline:
        rows = LoadDataFromDicts([{"input": topic} for topic in ("bees", "ships", "rain")])
        made = SelfInstruct("made", llm=MODEL, num_instructions=3, output_mappings={"instructions": "instruction"})
        evolved = EvolInstruct("evolved", llm=MODEL, num_evolutions=2, store_evolutions=True)
        label = TextClassification("label", llm=MODEL, input_mappings={"text": "evolved_instructions"})
        rows >> made.scatter() >> evolved.scatter() >> label
    result = balanced_run(pipeline, tmp_path / "out")
    found = user_rows(result["label"])
    counts = result.manifest["steps"]
    assert counts["evolved"]["rows_in"] == counts["made"]["rows_out"] >= 3
    assert len(found) == 2 * counts["made"]["rows_out"]
    assert list(dict.fromkeys(row["input"] for row in found)) == ["bees", "ships", "rain"]
    for row in found:
        assert row["instruction"] and row["evolved_instructions"] != row["instruction"]
        assert row["labels"]
