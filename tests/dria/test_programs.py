"""Programs written for Dria run after their imports were changed, and give what its documents promise."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raypipe.dria import Dria
from raypipe.models import LLM
from tests.books import assert_balanced
from tests.dria.substituted import loaded
from tests.loopback import Loopback, serve


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def answer(body: dict[str, Any]) -> str:
    """In the form that each prompt asks for."""
    prompt = prompt_of(body)
    subject = next((line.partition(": ")[2] for line in prompt.splitlines() if " is: " in line), "")
    if prompt.startswith("Rewrite 5 variations"):
        instruction = prompt.partition("Instruction: ")[2].partition(". Output")[0]
        return "```python\n" + repr([f"{instruction} {number}" for number in range(5)]) + "\n```"
    if " subtopics of a topic" in prompt:
        return ", ".join(f"{subject} {letter}" for letter in "abc")
    if " questions about a topic" in prompt:
        return "\n".join(f"{subject.strip()} {number}?" for number in range(2)) + "\n"
    if " responses to a question" in prompt:
        return f"RESPONSE A: short {subject}\n\nRESPONSE B: long {subject}"
    if prompt.startswith("Subtopics of"):
        return json.dumps([f"{prompt.split()[2]} {letter}" for letter in "ab"])
    return f"done: {prompt}"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Generator[SimpleNamespace]:
    with loaded(tmp_path_factory.mktemp("programs") / "copies") as found:
        yield found


def client(server: Loopback, engine: Any, tmp_path: Path) -> Dria:
    llm = LLM("openai/loopback", base_url=server.base_url, max_tries=1)
    return Dria(rpc_token="…", default=llm, engine=engine, out=tmp_path / "out")


def executed(pipeline: Any) -> Any:
    output = asyncio.run(pipeline.execute(return_output=True))
    assert pipeline.failures == []
    assert_balanced(pipeline.graph.graph(), pipeline.result)
    return output


def prompts(server: Loopback) -> Counter[str]:
    return Counter(prompt_of(request.body) for request in server.requests)


def test_variations_are_each_carried_out(programs: SimpleNamespace, tmp_path: Path) -> None:
    with serve(answer=answer) as server:
        pipeline = programs.variations.BasicPipeline(client(server, "local", tmp_path), None).build("Write a haiku")
        output = executed(pipeline)
        assert len(server.requests) == 6
        assert executed(pipeline) == output
        assert len(server.requests) == 6, "what was answered is not asked again"
    assert output == {"result": [f"done: Write a haiku {number}" for number in range(5)]}


def test_every_output_of_every_input_is_scattered(programs: SimpleNamespace, engine: Any, tmp_path: Path) -> None:
    """Not that of the first alone; equal inputs stay two tasks."""
    instructions = ["Write a haiku", "Write a sonnet", "Write a haiku"]
    with serve(answer=answer) as server:
        pipeline = programs.variations.SeveralInputs(client(server, engine, tmp_path)).build(instructions)
        output = executed(pipeline)
        assert prompts(server)["Write a haiku 4"] == 2
        assert len(server.requests) == 3 + 15
    assert output == {
        "result": [f"done: {instruction} {number}" for instruction in instructions for number in range(5)]
    }


def test_responses_to_questions_about_subtopics(programs: SimpleNamespace, engine: Any, tmp_path: Path) -> None:
    with serve(answer=answer) as server:
        pipeline = programs.nemotron_qa.NemotronQA(client(server, engine, tmp_path)).build(
            topic="tides", n_subtopics="3", n_questions="2"
        )
        output = executed(pipeline)
        assert len(server.requests) == 1 + 3 + 6
        assert "List 2 questions about a topic.\nThe topic is:  tides b\n" in "".join(prompts(server))
    questions = [f"tides {letter} {number}?" for letter in "abc" for number in range(2)]
    assert output == [
        {"question": each, "response_a": f"short {each}", "response_b": f"long {each}"} for each in questions
    ]
    rows = pipeline.result["default"].to_arrow()
    assert rows.column("response_b").to_pylist() == [row["response_b"] for row in output]


def test_a_callback_sees_the_outputs_of_all_inputs(programs: SimpleNamespace, tmp_path: Path) -> None:
    with serve(answer=answer) as server:
        pipeline = programs.flattened.flattened(client(server, "local", tmp_path), ["tea", "tides"])
        assert executed(pipeline) == {"subtopics": ["tea a", "tea b", "tides a", "tides b"]}


def test_a_list_of_all_outputs_is_one_task(programs: SimpleNamespace, engine: Any, tmp_path: Path) -> None:
    with serve(answer=answer) as server:
        pipeline = programs.flattened.summarized(client(server, engine, tmp_path), ["tea", "tides"])
        assert executed(pipeline) == {"result": ['done: Summarize ["tea a","tea b","tides a","tides b"]']}
        assert len(server.requests) == 2 + 1
