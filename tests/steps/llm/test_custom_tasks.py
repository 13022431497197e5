"""Tasks of a user's own, written as a class or as one function, and what any task shows of its prompt."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from raypipe.errors import SpecError
from raypipe.models import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import EvolInstruct, Task, TextClassification, TextGeneration, UltraFeedback, task
from tests.books import Row, failed, user_rows
from tests.loopback import serve

ROWS: list[Row] = [{"word": word, "tone": "dry"} for word in ("tea", "bread", "rain")]


class Rhyme(Task):
    """A task as a class."""

    @property
    def inputs(self) -> dict[str, bool]:
        return {"word": True, "tone": False}

    @property
    def outputs(self) -> list[str]:
        return ["rhyme", "length", "model_name"]

    def format_input(self, input: Row) -> list[Row]:
        return [{"role": "user", "content": f"Rhyme with {input['word']}, {input.get('tone', 'any tone')}."}]

    def format_output(self, output: str | None, input: Row) -> Row:
        if output is None or input["word"] == "rain":
            raise ValueError("no rhyme")
        return {"rhyme": output, "length": len(output), "unused": 1}


@task(inputs=["word"], outputs=["rhyme"])
def rhymed(output: str | None, input: Row) -> Row:
    """
    ---
    system_prompt: |
        You write {{rhymes}}.
    user_message_template: |
        Rhyme with {word}.
    ---
    """
    return {"rhyme": f"{input['word']}: {output}"}


def run(make: Any, out: Path, rows: list[Row] = ROWS, **options: Any) -> tuple[Any, list[list[Row]]]:
    with serve(answer=lambda _: "line") as server, Pipeline("own") as pipeline:
        llm = LLM("vllm-server/m", base_url=server.base_url)
        LoadDataFromDicts(rows) >> make("own", llm=llm, **options)
        result = pipeline.run(out, max_failed_rows=5, engine="local")
        return result, sorted([request.body["messages"] for request in server.requests], key=str)


def test_a_task_as_a_class_asks_and_reads(tmp_path: Path) -> None:
    result, sent = run(Rhyme, tmp_path / "out")
    assert [part[0]["content"] for part in sent] == [f"Rhyme with {word}, dry." for word in ("bread", "rain", "tea")]
    assert user_rows(result["own"]) == [
        {"word": word, "tone": "dry", "rhyme": "line", "length": 4, "model_name": "vllm-server/m"}
        for word in ("tea", "bread")
    ]
    assert [(step, row["word"]) for step, _, _, row in failed(result)] == [("own", "rain")]
    _, sent = run(Rhyme, tmp_path / "other", [{"word": "tea"}])
    assert sent[0][0]["content"] == "Rhyme with tea, any tone."


def test_a_task_as_a_function_asks_with_the_prompts_of_its_docstring(tmp_path: Path) -> None:
    result, sent = run(rhymed, tmp_path / "out", num_generations=2, group_generations=True)
    assert sent[0] == [
        {"role": "system", "content": "You write {rhymes}.\n"},
        {"role": "user", "content": "Rhyme with bread.\n"},
    ]
    assert [row["rhyme"] for row in user_rows(result["own"])] == [[f"{row['word']}: line"] * 2 for row in ROWS]
    assert rhymed.function("x", {"word": "a"}) == {"rhyme": "a: x"}


def test_a_task_as_a_function_is_saved_and_travels(engine: Any, tmp_path: Path) -> None:
    @task(inputs=["word"], outputs=["rhyme"])
    def local(output: str | None, input: Row) -> Row:
        """user_message_template: Rhyme with {word}."""
        return {"rhyme": input["word"][::-1]}

    with Pipeline("own") as pipeline:
        LoadDataFromDicts(ROWS) >> rhymed("named", llm=LLM("offline/m"))
    pipeline.save(tmp_path / "own.yaml")
    assert Pipeline.from_file(tmp_path / "own.yaml", allow_import=[__name__]).steps[1] == pipeline.steps[1]
    with Pipeline("own") as pipeline:
        LoadDataFromDicts(ROWS) >> local("local", llm=LLM("offline/m"))
    result = pipeline.run(tmp_path / "out", engine=engine)
    assert [row["rhyme"] for row in user_rows(result["local"])] == ["aet", "daerb", "niar"]
    with pytest.raises(SpecError, match=r"<locals>\.local cannot be imported"):
        pipeline.save(tmp_path / "local.yaml")


def no_prompts(output: Any, input: Any) -> Row:
    return {}


def no_template(output: Any, input: Any) -> Row:
    """system_prompt: be brief"""
    return {}


def broken(output: Any, input: Any) -> Row:
    """user_message_template: "{word" """
    return {}


def sound(output: Any, input: Any) -> Row:
    """user_message_template: "{word}" """
    return {}


@pytest.mark.parametrize(
    ("function", "inputs", "said"),
    [
        (no_prompts, [], "has no docstring with its prompts; write them as YAML"),
        (no_template, [], "has no docstring with its prompts; write them as YAML"),
        (broken, ["word"], "has prompts that are not templates"),
        (sound, ["word", "tone"], r"reads 'tone', but its prompts have no \{tone\}"),
        (sound, [], r"has \{word\} in its prompts, which is none of its inputs \(none\)"),
        (lambda row: row, [], "is not a function of an answer and a row; write def f"),
    ],
)
def test_a_function_that_is_no_task_is_refused(function: Any, inputs: list[str], said: str) -> None:
    with pytest.raises(SpecError, match=said):
        task(inputs=inputs, outputs=["x"])(function)


def test_a_class_that_is_no_task_is_refused_before_anything_runs(tmp_path: Path) -> None:
    class Half(Task):
        def format_input(self, input: Row) -> list[Row]:
            return []

    with pytest.raises(SpecError, match=r"has no method format_output; write format_output\(self, output, input\)"):
        run(Half, tmp_path / "out")


def test_columns_that_are_promised_and_not_given_fail_the_row(tmp_path: Path) -> None:
    class Nothing(Rhyme):
        def format_output(self, output: str | None, input: Row) -> Row:
            return {"rhyme": output} if input["word"] == "tea" else None  # type: ignore[return-value]

    result, _ = run(Nothing, tmp_path / "out")
    said = sorted(message for _, _, message, _ in failed(result))
    assert said[0].startswith("format_output gave None, not a mapping")
    assert said[2].startswith("format_output gave no column 'length'")


# Prompts that are shown.


def test_a_task_prints_what_it_would_send(capsys: pytest.CaptureFixture[str]) -> None:
    made = TextGeneration(template="Say {{ word }}.", system_prompt="Be {{ tone }}.", num_generations=3)
    made.print({"word": "tea", "tone": "dry"})
    assert capsys.readouterr().out == "--- system\nBe dry.\n--- user\nSay tea.\n"
    made.print()
    assert capsys.readouterr().out == "--- system\nBe <TONE>.\n--- user\nSay <WORD>.\n"
    rhymed().print()
    assert "Rhyme with <WORD>." in capsys.readouterr().out
    TextClassification(available_labels=["good", "bad"]).print({"text": "fine"})
    said = capsys.readouterr().out
    assert "fine" in said
    assert "--- schema of the answer\n{\n" in said


def test_a_task_shows_its_prompt_inside_an_event_loop_and_is_not_part_of_a_pipeline_twice() -> None:
    async def shown() -> Any:
        with Pipeline("one") as pipeline:
            LoadDataFromDicts([{"instruction": "x"}]) >> EvolInstruct(llm=LLM("offline/m"))
            pipeline.steps[1].first_request({"instruction": "Tell me."})  # type: ignore[attr-defined]
        return pipeline

    assert len(asyncio.run(shown()).steps) == 2
    request = EvolInstruct().first_request({"instruction": "Tell me."})
    assert "Tell me." in request.messages[-1]["content"]


def test_a_row_that_a_task_cannot_read_is_asked_for() -> None:
    with pytest.raises(SpecError, match=r"cannot show its prompt: .*give it a row to show it with, print\(\{'instr"):
        UltraFeedback().print()
