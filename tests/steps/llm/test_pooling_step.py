"""Steps that ask embedding and reward models."""

from __future__ import annotations

import asyncio
import pickle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from raypipe.contracts.llm import LLM, Request
from raypipe.errors import RowError, SpecError
from raypipe.pipeline import Pipeline
from raypipe.steps import ClassifierScore, EmbeddingGeneration, LoadDataFromDicts, RewardModelScore
from tests.books import assert_balanced
from tests.steps.scripted import ScriptedCaller

MODEL = LLM("offline/x")
ASPECTS = ["helpfulness", "correctness", "coherence", "complexity", "verbosity"]
TALK = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]


def ask(step: Any, row: dict[str, Any], answer: str) -> tuple[Any, Request]:
    caller = ScriptedCaller(answer)
    travelled = pickle.loads(pickle.dumps(step))
    travelled.open()
    return asyncio.run(travelled.process_row(row, caller)), caller.asked[0]


def test_a_text_becomes_a_vector() -> None:
    made, sent = ask(EmbeddingGeneration(llm=MODEL, dimensions=2), {"text": "hello"}, "[0.5, 1]")
    assert made == {"embedding": [0.5, 1.0], "model_name": "offline/scripted"}
    assert sent == Request(prompt="hello", pool="embed", numbers=2)


def test_the_model_may_be_called_embeddings() -> None:
    assert EmbeddingGeneration(embeddings=MODEL).llm == MODEL
    with pytest.raises(SpecError, match="llm and embeddings both name the model"):
        EmbeddingGeneration(embeddings=MODEL, llm=MODEL)


@pytest.mark.parametrize("answer", ["hello", "[]", "{}", '["a"]', "[null]", "[true]", "[1, null]"])
def test_what_is_no_vector_fails_its_row(answer: str) -> None:
    with pytest.raises(RowError, match="gave no numbers") as caught:
        ask(EmbeddingGeneration(llm=MODEL), {"text": "hello"}, answer)
    assert caught.value.kind == "numbers"


@pytest.mark.parametrize(
    "row",
    [{"instruction": "Why?", "response": "So."}, {"conversation": TALK}, {"instruction": None, "conversation": TALK}],
)
def test_a_whole_conversation_is_scored(row: dict[str, Any]) -> None:
    made, sent = ask(RewardModelScore(llm=MODEL), row, "[-1.5]")
    assert made == {"score": -1.5}
    assert sent == Request(tuple(TALK), pool="score", numbers=1)


def test_an_answer_and_a_conversation_are_told_apart_by_what_is_there() -> None:
    other = [{"role": "user", "content": "Else?"}]
    _, sent = ask(RewardModelScore(llm=MODEL), {"instruction": "Why?", "response": "So.", "conversation": other}, "[1]")
    assert list(sent.messages) == TALK


def test_several_numbers_have_names() -> None:
    row = {"conversation": TALK}
    made, sent = ask(RewardModelScore(llm=MODEL, aspects=ASPECTS, activation=True), row, "[1, 2, 3, 4, 0.5]")
    assert made == {"score": dict(zip(ASPECTS, [1.0, 2.0, 3.0, 4.0, 0.5], strict=True))}
    assert (sent.pool, sent.numbers) == ("classify", 5)
    with pytest.raises(RowError, match=r"gives 5 numbers, but 1 are named; name each of them in aspects="):
        ask(RewardModelScore(llm=MODEL), row, "[1, 2, 3, 4, 0.5]")


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({}, "has neither 'instruction' and 'response' nor 'conversation'"),
        ({"instruction": "Why?"}, "column 'response' is null, not text"),
        ({"conversation": "hello"}, "column 'conversation' is not a list"),
        ({"conversation": [{"content": "x"}]}, r"column 'conversation'\[0\] has no role"),
    ],
)
def test_a_row_without_a_conversation_costs_no_call(row: dict[str, Any], said: str) -> None:
    caller = ScriptedCaller()
    with pytest.raises(RowError, match=said):
        asyncio.run(RewardModelScore(llm=MODEL).process_row(row, caller))
    assert caller.asked == []


def test_a_text_is_put_before_a_classifier() -> None:
    made, sent = ask(ClassifierScore(llm=MODEL, labels=["bad", "good"]), {"text": "hello"}, "[0.25, 0.75]")
    assert made == {"label": "good", "scores": {"bad": 0.25, "good": 0.75}}
    assert sent == Request(prompt="hello", pool="classify", numbers=2)
    made, sent = ask(ClassifierScore(llm=MODEL, activation=False), {"text": "hello"}, "[3.5]")
    assert (made, sent) == ({"score": 3.5}, Request(prompt="hello", pool="score", numbers=1))
    with pytest.raises(RowError, match=r"gives 3 numbers, but 2 are named; name each of them in labels="):
        ask(ClassifierScore(llm=MODEL, labels=["bad", "good"]), {"text": "hello"}, "[1, 2, 3]")


def test_columns_that_are_named_must_be_there() -> None:
    assert RewardModelScore(llm=MODEL).takes() == ()
    pair = RewardModelScore(llm=MODEL, input_mappings={"response": "answer"})
    assert (pair.takes(), pair.needs()) == (("instruction", "answer"), ("instruction", "response"))
    assert RewardModelScore(llm=MODEL, input_mappings={"conversation": "chat"}).takes() == ("chat",)


@pytest.mark.parametrize("kind", [EmbeddingGeneration, RewardModelScore, ClassifierScore])
def test_a_model_is_needed(kind: Any) -> None:
    assert any("has none" in problem for problem in kind().problems())


def test_options_that_are_said_of_the_model_are_answered_with_where() -> None:
    with pytest.raises(SpecError, match=r"option 'model'.*is called llm here"):
        RewardModelScore(model="RLHFlow/ArmoRM-Llama3-8B-v0.1")
    with pytest.raises(SpecError, match="each number has a name of its own"):
        RewardModelScore(llm=MODEL, aspects=["a", "a"])


def pipeline(judge: LLM = MODEL) -> Pipeline:
    with Pipeline("scored") as made:
        rows = [{"question": f"Why {n}?", "answer": f"So {n}.", "text": f"text {n}"} for n in range(9)]
        source, vectors = LoadDataFromDicts(rows), EmbeddingGeneration("vectors", llm=MODEL)
        columns = {"instruction": "question", "response": "answer"}
        _ = source >> vectors >> RewardModelScore("scored", llm=judge, aspects=ASPECTS, input_mappings=columns)
    return made


def test_what_was_scored_is_not_asked_again(tmp_path: Path) -> None:
    first = pipeline().run(tmp_path / "out", engine="local")
    assert_balanced(pipeline().graph(), first)
    table = first["scored"].to_arrow()
    assert table.num_rows == 9
    assert table.schema.field("embedding").type == pa.list_(pa.float32())
    assert list(table.schema.field("score").type.names) == ASPECTS
    again = pipeline().run(tmp_path / "out", engine="local")
    assert again["scored"].to_arrow().equals(table)
    assert again.manifest["legs"][-1]["calls_sent"] == 0
    assert first.manifest["steps"]["vectors"]["calls_sent"] == 9


def test_a_model_that_cannot_score_is_refused_before_anything_is_spent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    with pytest.raises(SpecError, match="openai answers in words and gives no scores"):
        pipeline(LLM("openai/gpt-4o")).run(tmp_path / "out", engine="local")
    assert not list(tmp_path.rglob("*.parquet"))


def test_fixed_answers_stand_for_numbers(tmp_path: Path) -> None:
    judge = LLM("offline/x", options={"answers": [[1, 2, 3, 4, 5]]})
    rows = pipeline(judge).run(tmp_path / "out", engine="local")["scored"].to_arrow().to_pylist()
    assert all(list(row["score"].values()) == [1, 2, 3, 4, 5] for row in rows)
