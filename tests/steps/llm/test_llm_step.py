"""What all steps with a prompt of their own have in common, and all of them in one run."""

from __future__ import annotations

import asyncio
import pickle
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.contracts.step import Runs, Shape
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps.llm.chat_generation import ChatGeneration
from raypipe.steps.llm.evol_instruct import EvolInstruct
from raypipe.steps.llm.generate_sentence_pair import GenerateSentencePair
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.llm.self_instruct import SelfInstruct
from raypipe.steps.llm.structured_generation import StructuredGeneration
from raypipe.steps.llm.text_classification import TextClassification
from raypipe.steps.llm.ultra_feedback import UltraFeedback
from raypipe.steps.prompts.inputs import chat_request, text_of
from raypipe.steps.sources.loaders import LoadDataFromDicts
from tests.steps.scripted import ScriptedCaller

JUDGE = LLM("offline/stand-in")


class Halves(LLMStep):
    """Takes an answer apart at `|`."""

    def reads(self):
        return ("q",)

    def answer_types(self):
        return {"parts": "list<string>", "sizes": "list<int64>", "whole": "string"}

    async def answer(self, row, llm, sample):
        text = (await llm.complete(chat_request(row["q"], "Be brief."), sample=sample)).text
        parts = text.split("|")
        return {"parts": parts, "sizes": [len(part) for part in parts], "whole": text}


def ask(step, row, *answers, by_sample=False):
    caller = ScriptedCaller(*answers, by_sample=by_sample)
    travelled = pickle.loads(pickle.dumps(step))
    travelled.open()
    return asyncio.run(travelled.process_row(row, caller)), caller


def test_one_answer_is_one_row():
    step = Halves(llm=JUDGE)
    made, caller = ask(step, {"q": "?"}, "a|bc")
    assert made == {"parts": ["a", "bc"], "sizes": [1, 2], "whole": "a|bc", "model_name": "offline/scripted"}
    assert [message["role"] for message in caller.asked[0].messages] == ["system", "user"]
    assert (step.runs, step.shape, step.problems()) == (Runs.ROW, Shape.MAP, [])
    assert step.writes() == step.answer_types() | {"model_name": "string"}


def test_the_model_name_can_be_left_out():
    step = Halves(llm=JUDGE, add_model_name=False)
    assert "model_name" not in ask(step, {"q": "?"}, "a")[0]
    assert "model_name" not in step.writes()


def test_several_answers_become_rows():
    step = Halves(llm=JUDGE, num_generations=3)
    made, caller = ask(step, {"q": "?"}, "a", "b", "c", by_sample=True)
    assert [row["whole"] for row in made] == ["a", "b", "c"]
    assert {row["model_name"] for row in made} == {"offline/scripted"}
    assert (caller.samples, step.shape) == ([0, 1, 2], Shape.SCATTER)


def test_grouped_answers_stay_in_their_row():
    step = Halves(llm=JUDGE, num_generations=2, group_generations=True)
    made, _ = ask(step, {"q": "?"}, "a|b", "c", by_sample=True)
    assert made == {
        "parts": [["a", "b"], ["c"]],
        "sizes": [[1, 1], [1]],
        "whole": ["a|b", "c"],
        "model_name": "offline/scripted",
    }
    assert step.writes()["parts"] == "list<list<string>>"
    assert step.shape is Shape.MAP


def test_scatter_takes_the_lists_apart_together():
    step = Halves(llm=JUDGE, num_generations=2, add_model_name=False).scatter()
    made, _ = ask(step, {"q": "?"}, "a|bc", "d", by_sample=True)
    assert [(row["parts"], row["sizes"], row["whole"]) for row in made] == [
        ("a", 1, "a|bc"),
        ("bc", 2, "a|bc"),
        ("d", 1, "d"),
    ]
    assert step.writes() == {"parts": "string", "sizes": "int64", "whole": "string"}
    assert step.shape is Shape.SCATTER


def test_one_failed_answer_fails_the_row_once_the_others_are_there():
    caller = ScriptedCaller(RowError("gone", "call"), "b", "c", by_sample=True)
    with pytest.raises(RowError, match="gone"):
        asyncio.run(Halves(llm=JUDGE, num_generations=3).process_row({"q": "?"}, caller))
    assert caller.answered == 3


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (lambda: Halves(), "asks a model but has none; give it llm="),
        (lambda: Halves(llm=JUDGE, group_generations=True).scatter(), "leave one of them out"),
        (lambda: ChatGeneration(llm=JUDGE).scatter(), "column 'generation' holds none; leave scatter out"),
    ],
)
def test_problems_of_the_finished_step(step, said):
    made = step()
    assert [problem for problem in made.problems() if said in problem]
    with pytest.raises(SpecError):
        made.open()


@pytest.mark.parametrize(("value", "text"), [("x", "x"), (3, "3"), (True, "True"), ("", "")])
def test_plain_values_are_text(value, text):
    assert text_of({"a": value}, "a") == text


@pytest.mark.parametrize(("value", "said"), [(None, "is null, not text"), (["x"], "is a list, not text")])
def test_what_is_no_text_fails_the_row(value, said):
    with pytest.raises(RowError, match=f"column 'a' {said}") as caught:
        text_of({"a": value}, "a")
    assert caught.value.kind == "input"


SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
ROWS: list[dict[str, Any]] = [
    {
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": f"Say {number}"}],
        "instruction": f"Explain the number {number}.",
        "structured_output": [SCHEMA, {"format": "regex", "schema": "[a-c]{3}-[0-9]+"}, None][number % 3],
        "text": f"I was charged {number} times.",
        "input": "arithmetic",
        "generations": [f"It is {number}.", None, "I do not know."][: number % 4],
        "anchor": f"{number} is a number.",
    }
    for number in range(6)
]
STEPS = {
    "chat": (ChatGeneration, {}, {}),
    "structured": (StructuredGeneration, {}, {}),
    "label": (TextClassification, {"available_labels": ["billing", "other"]}, {}),
    "labels": (TextClassification, {"n": 2}, {"labels": "all_labels"}),
    "self": (SelfInstruct, {}, {}),
    "evolve": (EvolInstruct, {"num_evolutions": 2, "generate_answers": True}, {}),
    "rounds": (
        EvolInstruct,
        {"num_evolutions": 2, "store_evolutions": True, "generate_answers": True, "include_original_instruction": True},
        {},
    ),
    "judge": (UltraFeedback, {}, {}),
    "truth": (UltraFeedback, {"aspect": "truthfulness"}, {"ratings": "truth", "rationales": "kinds"}),
    "pair": (GenerateSentencePair, {"action": "query", "triplet": True, "hard_negative": True}, {}),
}


def test_every_row_comes_out_of_all_of_them(tmp_path):
    with Pipeline("tasks") as pipeline:
        last: Any = LoadDataFromDicts(ROWS)
        for name, (kind, options, names) in STEPS.items():
            renamed = {"model_name": f"{name}_model"} | {"generation": name} | names
            step = kind(name, llm=JUDGE, **options)
            step.output_mappings = {old: new for old, new in renamed.items() if old in step.writes()}
            last = last >> step
    result = pipeline.run(tmp_path / "out", engine="local")
    (leaf,) = result.values()
    made = leaf.to_arrow().to_pylist()
    assert (len(made), result.failed_rows) == (len(ROWS), 0)
    for number, row in enumerate(made):
        assert row["anchor"] == ROWS[number]["anchor"]
        assert row["chat"] and row["structured"] and row["evolved_instruction"] and row["answer"]
        assert row["labels"] in ("billing", "other", "Unclassified")
        assert 1 <= len(row["all_labels"]) <= 2
        assert 1 <= len(row["instructions"]) <= 5
        assert (len(row["evolved_instructions"]), len(row["answers"])) == (3, 3)
        assert row["evolved_instructions"][0] == row["instruction"]
        there = [text is not None for text in row["generations"]]
        for column in ("ratings", "rationales", "truth", "kinds", "types", "rationales-for-ratings"):
            assert [value is not None for value in row[column]] == there
        assert row["positive"] and row["negative"]
        assert {row[f"{name}_model"] for name in STEPS} == {"offline/stand-in"}
