"""Reward and embedding models on a real engine: their numbers are those of the model itself."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM, Caller, Request
from raypipe.contracts.step import Output, Step
from raypipe.errors import RowError, SpecError
from raypipe.models import open_model
from raypipe.pipeline import Pipeline
from raypipe.row import Values
from raypipe.steps import EmbeddingGeneration, LoadDataFromDicts, RewardModelScore
from tests.models.test_contract import with_model
from tests.vllm.marks import MARKS
from tests.vllm.tiny import ENGINE, make_model, make_reward_model, serve

# What vLLM imports warns of itself.
pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore")]

ASPECTS = ["helpfulness", "correctness", "coherence"]
QUESTIONS = ["How much is 2+2?", "Why is the sky blue?"]
ROWS = [{"question": question, "good": f"Because {question}", "bad": "No."} for question in QUESTIONS]


def talk(row: dict[str, Any], column: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": row["question"]}, {"role": "assistant", "content": row[column]}]


def logits(folder: Path, messages: list[dict[str, str]]) -> list[float]:
    """What the model itself says."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = tokenizer.apply_chat_template(messages, return_tensors="pt", return_dict=False)
    return AutoModelForSequenceClassification.from_pretrained(folder)(tokens).logits[0].tolist()


class Tried(Step):
    """What becomes of requests that the model cannot answer."""

    def writes(self) -> dict[str, str]:
        return {"refusals": "list<string>"}

    async def process_row(self, row: Values, llm: Caller) -> Output:
        said = ({"role": "user", "content": "x"},)
        long = ({"role": "user", "content": "x" * ENGINE["max_model_len"]},)
        asked = [Request(said), Request(prompt="x", pool="embed"), Request(long, pool="score")]
        return {"refusals": [await refusal(llm, request) for request in asked]}


async def refusal(llm: Caller, request: Request) -> str:
    try:
        return (await llm.complete(request)).text
    except (SpecError, RowError) as error:
        return f"{type(error).__name__}: {error}"


def test_a_reward_model_scores_what_the_pipeline_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = make_reward_model(tmp_path / "reward", len(ASPECTS))
    judge = LLM(f"vllm/{folder}", engine={**ENGINE, "runner": "pooling"})
    with Pipeline("judged") as pipeline:
        steps = [
            RewardModelScore(
                f"judge_{column}",
                llm=judge,
                aspects=ASPECTS,
                activation=column == "bad",
                input_mappings={"instruction": "question", "response": column},
                output_mappings={"score": f"score_{column}"},
            )
            for column in ("good", "bad")
        ]
        _ = LoadDataFromDicts(ROWS) >> steps[0] >> steps[1] >> Tried("tried", llm=judge)
    assert list(pipeline.plan().pools) == [judge.label]
    result = pipeline.run(tmp_path / "out", engine="local")
    rows = result["tried"].to_arrow().to_pylist()
    assert len(rows) == len(ROWS)
    for row in rows:
        assert list(row["score_good"].values()) == pytest.approx(logits(folder, talk(row, "good")), abs=1e-3)
        weights = [math.exp(one) for one in logits(folder, talk(row, "bad"))]
        shares = [one / sum(weights) for one in weights]
        assert list(row["score_bad"].values()) == pytest.approx(shares, abs=1e-3)
    text, vector, long = rows[0]["refusals"]
    assert text.startswith("SpecError: ") and "cannot write text (vLLM says that it can: classify" in text
    assert vector.startswith("SpecError: ") and '"convert": "embed"' in vector
    assert long.startswith("CallError: ") and "refused" in long
    figures = result.manifest["steps"]["judge_good"]
    assert (figures["calls_sent"], figures["output_tokens"]) == (2, 0)
    assert figures["input_tokens"] > 20


@pytest.mark.full
def test_a_model_that_writes_makes_embeddings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = make_model(tmp_path / "tiny")
    llm = LLM(f"vllm/{folder}", engine={**ENGINE, "runner": "pooling", "convert": "embed"})
    texts = [{"text": text} for text in (*QUESTIONS, QUESTIONS[0] + " ", QUESTIONS[1])]
    with Pipeline("embedded") as pipeline:
        _ = LoadDataFromDicts(texts) >> EmbeddingGeneration("embedded", embeddings=llm)
    vectors = [
        row["embedding"] for row in pipeline.run(tmp_path / "out", engine="local")["embedded"].to_arrow().to_pylist()
    ]
    assert [math.hypot(*vector) for vector in vectors] == pytest.approx([1.0] * len(texts), abs=1e-3)
    assert vectors[1] == pytest.approx(vectors[3], abs=1e-4)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)


@pytest.mark.full
@pytest.mark.parametrize("pool", ["embed", "score"])
def test_a_server_gives_numbers(pool: Any, tmp_path: Path) -> None:
    folder, options = tmp_path / "tiny", ["--runner", "pooling"]
    _ = make_reward_model(folder, 2) if pool == "score" else make_model(folder)
    options += ["--convert", "embed"] if pool == "embed" else []
    said = talk(ROWS[0], "good")
    request = Request(tuple(said), pool=pool) if pool == "score" else Request(prompt="hello", pool=pool)
    with serve(folder, tmp_path / "server.log", *options) as base_url:
        llm = LLM("vllm-server/tiny", base_url=base_url)
        made = with_model(llm, lambda model: model.complete(open_model(llm).payload(request)))
    numbers = orjson.loads(made.text)
    assert made.usage.input_tokens > 0
    if pool == "score":
        assert numbers == pytest.approx(logits(folder, said), abs=1e-3)
    else:
        assert math.hypot(*numbers) == pytest.approx(1.0, abs=1e-3)
