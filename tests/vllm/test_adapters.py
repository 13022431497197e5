"""LoRA adapters over one engine, and texts of a form, on a real engine and a real server."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.vllm.marks import MARKS
from tests.vllm.tiny import ENGINE, make_adapter, make_model

# What vLLM imports warns of itself.
pytestmark = [*MARKS, pytest.mark.filterwarnings("ignore")]

ROWS = [{"instruction": f"Is {n} even?"} for n in range(8)]
LONG = " Think." * 1000
FORMS: dict[str, Any] = {
    "pattern": {"regex": r"\d{2}-[a-z]{3}"},
    "choice": {"choice": ["yes", "no"]},
    "grammar": {"grammar": 'root ::= "even" | "odd"'},
}


def test_adapters_share_an_engine_and_each_answers_for_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    folder = make_model(tmp_path / "tiny")
    engine = {**ENGINE, "max_loras": 2, "max_model_len": 8192}
    base = LLM(f"vllm/{folder}", engine=engine, temperature=0.0, max_tokens=12)
    one, other = (base.model_copy(update={"lora": str(make_adapter(tmp_path / f"a{n}", n))}) for n in (1, 2))
    sampled = one.model_copy(update={"temperature": 1.0, "max_tokens": 2})
    with Pipeline("adapted") as pipeline:
        steps = [TextGeneration(name, llm=llm, output=name) for name, llm in (("one", one), ("other", other))]
        steps += [TextGeneration(name, llm=one, structured_output=form, output=name) for name, form in FORMS.items()]
        steps += [TextGeneration("again", llm=one, output="again")]
        # Too many tokens for one pass of vLLM: an engine on processors must not read a prompt in parts.
        steps += [TextGeneration("long", llm=sampled, template=f"{{{{ instruction }}}}{LONG}", output="long")]
        above: Any = LoadDataFromDicts(ROWS)
        for step in steps:
            above = above >> step
    assert len(pipeline.plan().pools) == 1
    environment = dict(os.environ)
    rows = pipeline.run(tmp_path / "out", engine="local")["long"].to_arrow().to_pylist()
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ.keys() - environment.keys()
    assert len(rows) == len(ROWS)
    for row in rows:
        assert row["one"] == row["again"] != row["other"]
        assert re.fullmatch(FORMS["pattern"]["regex"], row["pattern"])
        assert (row["choice"] in ("yes", "no"), row["grammar"] in ("even", "odd")) == (True, True)


def test_a_server_holds_answers_to_a_form(base_url: str, tmp_path: Path) -> None:
    llm = LLM("vllm-server/tiny", base_url=base_url, max_tokens=24)
    with Pipeline("formed") as pipeline:
        above: Any = LoadDataFromDicts(ROWS)
        for name, form in FORMS.items():
            above = above >> TextGeneration(name, llm=llm, structured_output=form, output=name)
    rows = pipeline.run(tmp_path / "out", engine="local")["grammar"].to_arrow().to_pylist()
    assert len(rows) == len(ROWS)
    assert all(re.fullmatch(FORMS["pattern"]["regex"], row["pattern"]) for row in rows)
    assert {row["choice"] for row in rows} <= {"yes", "no"}
    assert {row["grammar"] for row in rows} <= {"even", "odd"}
