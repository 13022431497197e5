"""The pipeline in step folders runs as a program, and with models of the user's own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from raypipe.dria import Dria, Model, factory
from raypipe.models import LLM
from raypipe.results import Result
from tests.books import assert_balanced
from tests.dria.shipped import PROGRAM, nemotron
from tests.loopback import serve


def test_it_runs_without_key_and_network(tmp_path: Path) -> None:
    command = [sys.executable, str(PROGRAM), "--n-subtopics", "4", "--n-questions", "3", "--engine", "local"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"12 rows in out/nemotron-dria/data, 0 failed", done.stdout)
    assert len(Result(tmp_path / "out" / "nemotron-dria")["default"]) == 12


def answer(body: dict[str, Any]) -> str:
    prompt = body["messages"][-1]["content"]
    if "Subtopics" in prompt or "subtopics" in prompt:
        return "ebb, flow."
    if "questions" in prompt:
        return "Why?\nWhen?\n"
    return "no idea" if "When?" in prompt else "RESPONSE A: One.\nTwo.\nRESPONSE B: Three."


def test_each_step_asks_its_own_models(tmp_path: Path) -> None:
    """An answer in no form fails its own row."""
    with serve(answer=answer) as server, nemotron() as module:
        llms = {name: LLM(f"openai/{name}", base_url=server.base_url) for name in ("first", "second", "third")}
        dria = Dria(models={Model.GPT4O: llms["first"]}, default=llms["second"], engine="local", out=tmp_path)
        program = module.NemotronQA(dria)
        program.models[2] = [llms["third"]]
        pipeline = program.build("tides", "2", "2")
        rows = pipeline.execute_sync()
        assert Counter(request.body["model"] for request in server.requests) == {"first": 1, "second": 2, "third": 4}
        assert_balanced(pipeline.graph.graph(), pipeline.result)
    said = {"question": "Why?", "response_a": "One.\nTwo.", "response_b": "Three."}
    assert rows == [{"sub_topic": sub_topic} | said for sub_topic in ("ebb", "flow")]
    assert {failure["message"][:50] for failure in pipeline.failures} == {
        "ValueError: no RESPONSE A and RESPONSE B in 'no id"
    }


def test_ready_made_pipelines_say_where_they_stand() -> None:
    with pytest.raises(ImportError, match="copy the folder configs/nemotron_dria beside your program"):
        from raypipe.dria.factory import NemotronQA  # noqa: F401
    for name in ("SubTopicPipeline", "ListExtenderPipeline", "PersonaPipeline", "QAPipeline"):
        with pytest.raises(ImportError, match=r"run configs/\w+\.yaml") as error:
            getattr(factory, name)
        path = str(error.value).rpartition(" ")[2]
        assert (PROGRAM.parents[2] / path).exists()
