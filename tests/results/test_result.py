"""What a run leaves behind, what a file brings back, and what a model is sent, in the cases that are easily missed."""

from __future__ import annotations

import copy
import json
import socket
import sys
from datetime import date, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raypipe.errors import InputError, SpecError
from raypipe.models import LLM, GroqLLM, OllamaLLM, OpenAILLM
from raypipe.pipeline import Pipeline
from raypipe.results import Result
from raypipe.row import Values
from raypipe.steps import Filter, KeepColumns, LoadDataFromDicts, TextGeneration, step
from tests.books import Row, assert_balanced, failed, user_rows
from tests.loopback import serve

MODEL = LLM("offline/stand-in")
COUNT = 130
"""Rows of a run that is longer than a buffer of fifty, and no multiple of it."""


def run(pipeline: Pipeline, out: Path, **options: Any) -> Result:
    result = pipeline.run(out, engine="local", max_failed_rows=COUNT, **options)
    assert_balanced(pipeline.graph(), result)
    return result


def numbers(count: int = COUNT) -> LoadDataFromDicts:
    return LoadDataFromDicts([{"n": number} for number in range(count)], name="seed")


# Results.


@step(inputs=["n"], outputs=["made"])
def never(row: Values) -> dict[str, Any]:
    raise ValueError("no")


def test_a_single_leaf_is_the_default_and_one_of_several_is_not(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with Pipeline("one") as single:
        numbers() >> KeepColumns("only", columns=["n"])
    result = run(single, tmp_path / "one")
    assert list(result) == ["only"]
    assert [row["n"] for row in result["default"]["train"].to_list()] == list(range(COUNT))
    with pytest.raises(KeyError, match="test"):
        result["default"]["test"]
    with Pipeline("two") as several:
        numbers() >> [KeepColumns("left", columns=["n"]), KeepColumns("right", columns=["n"])]
    result = run(several, tmp_path / "two")
    with pytest.raises(KeyError, match="default"):
        result["default"]


def test_a_leaf_called_default_beside_another_is_found(tmp_path: Path) -> None:
    with Pipeline("named") as pipeline:
        numbers(2) >> [KeepColumns("default", columns=["n"]), never("other")]
    result = run(pipeline, tmp_path / "out")
    assert user_rows(result["default"]) == [{"n": 0}, {"n": 1}]
    assert len(result["other"]) == 0


@pytest.mark.parametrize("how", ["fails", "is filtered"])
def test_a_leaf_to_which_no_row_comes_is_there_with_its_columns(how: str, tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with Pipeline("nothing") as pipeline:
        leaf = never("leaf") if how == "fails" else Filter("leaf", keep="n < 0")
        numbers(3) >> [leaf, KeepColumns("kept", columns=["n"])]
    result = run(pipeline, tmp_path / "out")
    assert set(result) == {"leaf", "kept"}
    assert user_rows(result["leaf"]) == []
    dataset = result["leaf"]["train"]
    assert (dataset.num_rows, dataset.features["n"].dtype) == (0, "int64")
    assert ("made" in dataset.column_names) is (how == "fails")
    assert result.failed_rows == (3 if how == "fails" else 0)


@step
def drifting(row: Values) -> dict[str, Any]:
    """Columns come and go, and types change, after more rows than a writer holds."""
    number = row["n"]
    early, late = number < 60, number >= 100
    made: dict[str, Any] = {
        "widened": number if early else number + 0.5,
        "mixed": number if early else f"text {number}",
        "filled": None if not late else [number],
        "nested": {"x": number} if early else {"y": [str(number)]},
    }
    return made | ({"gone": number} if early else {}) | ({"added": f"new {number}"} if late else {})


def test_columns_that_come_go_and_change_their_type_lose_no_row(tmp_path: Path) -> None:
    pytest.importorskip("datasets")
    with Pipeline("drifting") as pipeline:
        numbers() >> drifting("leaf")
    result = run(pipeline, tmp_path / "out")
    rows = user_rows(result["leaf"])
    assert ([row["n"] for row in rows], result.failed_rows) == (list(range(COUNT)), 0)
    assert [row["gone"] for row in rows] == [n if n < 60 else None for n in range(COUNT)]
    assert [row["added"] for row in rows] == [f"new {n}" if n >= 100 else None for n in range(COUNT)]
    assert [row["widened"] for row in rows] == [n if n < 60 else n + 0.5 for n in range(COUNT)]
    assert [row["mixed"] for row in rows] == [str(n) if n < 60 else f"text {n}" for n in range(COUNT)]
    assert [row["filled"] for row in rows] == [[n] if n >= 100 else None for n in range(COUNT)]
    assert [row["nested"].get("x") for row in rows] == [n if n < 60 else None for n in range(COUNT)]
    assert [row["nested"].get("y") for row in rows] == [None if n < 60 else [str(n)] for n in range(COUNT)]
    dataset = result["default"]["train"]
    assert [row["mixed"] for row in dataset.to_list()] == [row["mixed"] for row in rows]
    schemas = {str(pq.read_schema(file)) for file in (result.path / "data" / "leaf").glob("*.parquet")}
    assert len(schemas) == 1


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Addresses that somebody tried to reach."""
    tried: list[Any] = []

    def refuse(_: socket.socket | None, address: Any) -> None:
        tried.append(address)
        raise OSError("no network here")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *_, **__: refuse(None, host))
    return tried


def test_a_run_its_card_its_copy_and_its_picture_need_no_network(tmp_path: Path, no_network: list[Any]) -> None:
    datasets = pytest.importorskip("datasets")
    pytest.importorskip("huggingface_hub")
    from raypipe.results.card import card

    with Pipeline("offline") as pipeline:
        LoadDataFromDicts([{"instruction": "Go."}]) >> TextGeneration("answers", llm=MODEL)
    result = run(pipeline, tmp_path / "out")
    datasets.disable_progress_bars()
    try:
        result.save_to_disk(tmp_path / "saved")
    finally:
        datasets.enable_progress_bars()
    assert user_rows(Result.load_from_disk(tmp_path / "saved")["default"]) == user_rows(result["answers"])
    assert "# me/offline" in card(result, "me/offline")
    for suffix in ("svg", "mmd"):
        drawn = Path(pipeline.draw(tmp_path / f"graph.{suffix}", top_to_bottom=True)).read_text()
        assert "answers" in drawn and "instruction" in drawn
    assert no_network == []


def test_a_picture_without_a_name_is_drawn_beside_the_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Pipeline("drawn") as pipeline:
        numbers(1) >> KeepColumns("kept", columns=["n"])
    assert pipeline.draw() == "pipeline.svg"
    assert pipeline._repr_svg_() == (tmp_path / "pipeline.svg").read_text()  # pyright: ignore[reportPrivateUsage]


def test_a_notebook_shows_a_pipeline_that_is_not_finished_as_text() -> None:
    with Pipeline("unsound") as pipeline:
        numbers(1) >> KeepColumns("kept", columns=["missing"])
    assert pipeline._repr_svg_() is None  # pyright: ignore[reportPrivateUsage]
    assert repr(pipeline) == "Pipeline('unsound', 2 steps)"


# What is written down.


TELLING: list[Row] = [
    {"text": text, "n": number, "nested": nested}
    for number, (text, nested) in enumerate(
        [
            ("yes", {"a": [1, None], "b": "null"}),
            ("null", None),
            ("~", {"a": [], "b": "="}),
            ("0777", {"a": None, "b": "<<"}),
            ("2020-01-01", {"a": [2], "b": "1_000"}),
            ("1e3", {"a": [3], "b": "0x1f"}),
            ("é ß 日本 🙂 \u2028 \x85", {"a": [4], "b": "\x7f"}),
            (" leading, trailing \n\n and: # more\t", {"a": [5], "b": "- item"}),
            ("", {"a": [6], "b": "{{ template }} %"}),
            (None, {"a": [7], "b": "'\"\\"}),
        ]
    )
]
"""Values that a careless reader of YAML or JSON would take for others."""


@pytest.mark.parametrize("suffix", ["yaml", "yml", "json"])
def test_rows_in_memory_are_saved_with_their_pipeline_exactly_as_they_are(suffix: str, tmp_path: Path) -> None:
    with Pipeline("saved") as pipeline:
        LoadDataFromDicts(TELLING, name="seed") >> KeepColumns("kept", columns=["nested", "text", "n"])
    pipeline.save(tmp_path / f"saved.{suffix}")
    loaded = Pipeline.from_file(tmp_path / f"saved.{suffix}")
    first, again = run(pipeline, tmp_path / "first")["kept"], run(loaded, tmp_path / "again")["kept"]
    assert again.to_arrow().equals(first.to_arrow())
    assert user_rows(first) == TELLING


def test_the_pipeline_beside_a_dataset_makes_the_same_dataset_again(tmp_path: Path) -> None:
    with Pipeline("again", description="a: b # c") as pipeline:
        asking = TextGeneration("answers", llm=LLM("offline/m", temperature=0.3), template="Tell me of {{ text }}.")
        LoadDataFromDicts(TELLING, name="seed") >> asking >> Filter("good", keep="n != 4")
    first = run(pipeline, tmp_path / "first")
    again = run(Pipeline.from_file(first.path / "pipeline.yaml"), tmp_path / "again")
    assert again["good"].to_arrow().equals(first["good"].to_arrow())
    assert len(first["good"]) == len(TELLING) - 1


def test_the_format_that_is_asked_for_wins_over_the_name_of_the_file(tmp_path: Path) -> None:
    with Pipeline("formats") as pipeline:
        numbers(1) >> KeepColumns("kept", columns=["n"])
    pipeline.save(tmp_path / "saved.yaml", format="json")
    assert json.loads((tmp_path / "saved.yaml").read_text()) == pipeline.dump()
    assert Pipeline.from_file(tmp_path / "saved.yaml").dump() == pipeline.dump()
    with pytest.raises(SpecError, match="format is json or yaml, not 'toml'"):
        pipeline.save(tmp_path / "other", format="toml")
    assert not (tmp_path / "other").exists()


@step(inputs=["n"], outputs=["doubled"])
def doubled(row: Values) -> dict[str, Any]:
    return {"doubled": 2 * row["n"]}


def test_a_step_of_a_module_is_written_by_its_place_and_found_there(tmp_path: Path) -> None:
    with Pipeline("own") as pipeline:
        numbers(3) >> doubled("twice")
    pipeline.save(tmp_path / "own.yaml")
    assert "type: tests.results.test_result:doubled" in (tmp_path / "own.yaml").read_text()
    again = run(Pipeline.from_file(tmp_path / "own.yaml", allow_import=[__name__]), tmp_path / "out")
    assert [row["doubled"] for row in user_rows(again["twice"])] == [0, 2, 4]


def test_what_no_other_program_can_import_is_refused_when_it_is_saved(tmp_path: Path) -> None:
    @step(inputs=["n"], outputs=["m"])
    def local(row: Values) -> dict[str, Any]:
        return {"m": row["n"]}

    with Pipeline("local") as pipeline:
        numbers(1) >> local("inner") >> KeepColumns("kept", columns=["n"], when=lambda row: True)
    with pytest.raises(SpecError) as caught:
        pipeline.save(tmp_path / "local.yaml")
    said = [str(violation) for violation in caught.value.violations]
    assert [one.partition(":")[0] for one in said] == ["step 'inner'", "step 'kept'"]
    assert "<locals>.local cannot be imported by a reader of the file" in said[0]
    assert not (tmp_path / "local.yaml").exists()
    assert len(run(pipeline, tmp_path / "out")["kept"]) == 1


def test_a_step_of_the_program_that_is_run_is_refused_when_it_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubled, "__module__", "__main__")
    with Pipeline("main") as pipeline:
        numbers(1) >> doubled("twice")
    with pytest.raises(SpecError, match="step 'twice': __main__:doubled cannot be imported"):
        pipeline.save("main.yaml")


def test_a_step_that_is_not_there_when_a_file_is_read_is_named_with_what_to_write(tmp_path: Path) -> None:
    with Pipeline("own") as pipeline:
        numbers(3) >> doubled("twice")
    path = tmp_path / "own.yaml"
    path.write_text(pipeline.to_yaml().replace(":doubled", ":tripled"))
    with pytest.raises(SpecError, match=r"tripled.*write package\.module:name"):
        Pipeline.from_file(path, allow_import=[__name__])


@pytest.mark.parametrize("value", [date(2020, 1, 2), datetime(2020, 1, 2, 3), float("nan"), float("inf")], ids=repr)
def test_values_that_json_does_not_have_are_refused_there_and_exact_in_yaml(tmp_path: Path, value: Any) -> None:
    with Pipeline("odd") as pipeline:
        LoadDataFromDicts([{"x": 1}, {"x": value}], name="seed") >> KeepColumns("kept", columns=["x"])
    with pytest.raises(SpecError, match=r"cannot be JSON \(steps\[0\]\.data\[1\]\.x is .*; write YAML"):
        pipeline.save(tmp_path / "odd.json")
    assert not (tmp_path / "odd.json").exists()
    pipeline.save(tmp_path / "odd.yaml")
    [_, again] = Pipeline.from_file(tmp_path / "odd.yaml").steps[0].model_dump()["data"]
    assert repr(again["x"]) == repr(value)


@pytest.fixture
def changing(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("changing_steps")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def test_a_step_whose_code_was_changed_gives_new_values_into_the_same_folder(
    tmp_path: Path, changing: ModuleType
) -> None:
    made: list[list[int]] = []
    for factor in (1, 10):
        source = (
            "from raypipe.steps import step\n\n"
            "@step(inputs=['n'], outputs=['value'])\n"
            f"def value(row):\n    return {{'value': row['n'] * {factor}}}\n"
        )
        exec(compile(source, "changing_steps", "exec"), vars(changing))
        with Pipeline("changed") as pipeline:
            numbers(3) >> changing.value("values")
        made.append([row["value"] for row in user_rows(run(pipeline, tmp_path / "out")["values"])])
    assert made == [[0, 1, 2], [0, 10, 20]]


def test_a_leaf_that_is_added_takes_the_rows_of_all_and_asks_nothing_again(tmp_path: Path) -> None:
    with serve() as server:
        for leaves in (["kept"], ["kept", "other"]):
            with Pipeline("grown") as pipeline:
                llm = LLM("vllm-server/m", base_url=server.base_url)
                rows = LoadDataFromDicts([{"instruction": f"prompt {number}"} for number in range(60)])
                (
                    rows
                    >> TextGeneration("answers", llm=llm)
                    >> [KeepColumns(leaf, columns=["generation"]) for leaf in leaves]
                )
            result = run(pipeline, tmp_path / "out")
            assert {leaf: len(result[leaf]) for leaf in result} == dict.fromkeys(leaves, 60)
        assert len(server.requests) == 60


def test_what_a_user_gives_is_left_as_it_was(tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": "Go.", "more": {"x": [1]}}]
    generation = {"temperature": 0.5, "stop": ["END"], "extra_body": {"top_k": 3}}
    mappings = {"instruction": "prompt"}
    parameters = {"answers": {"llm": {"generation_kwargs": {"temperature": 0.1}}}}
    given = (rows, generation, mappings, parameters)
    before = copy.deepcopy(given)
    with Pipeline("given") as pipeline:
        llm = LLM("offline/m", generation_kwargs=generation)
        TextGeneration("answers", llm=llm, input_mappings=mappings)
    run_of = pipeline.run(tmp_path / "out", engine="local", dataset=rows, parameters=parameters)
    assert len(run_of["answers"]) == 1
    assert given == before


# Models.


def bodies(llm: Any, out: Path, script: list[int]) -> tuple[list[dict[str, Any]], Result]:
    with serve(script=script) as server, Pipeline("models") as pipeline:
        made = llm(server.base_url)
        LoadDataFromDicts([{"instruction": "Go."}]) >> TextGeneration("answers", llm=made)
        result = run(pipeline, out)
        return [request.body for request in server.requests], result


@pytest.mark.parametrize("kind", [OpenAILLM, GroqLLM, OllamaLLM], ids=["openai", "groq", "ollama"])
def test_a_model_that_is_told_nothing_sends_no_limit_and_no_setting_of_its_own(kind: Any, tmp_path: Path) -> None:
    (body,), _ = bodies(lambda url: kind("m", base_url=url), tmp_path / "out", [])
    assert body == {"model": "m", "messages": [{"role": "user", "content": "Go."}]}


@pytest.mark.parametrize("retries", [0, 2])
def test_a_model_tries_again_as_often_as_it_is_told(retries: int, tmp_path: Path) -> None:
    sent, result = bodies(
        lambda url: OpenAILLM("m", base_url=url, max_retries=retries), tmp_path / "out", [500] * (retries + 1)
    )
    assert len(sent) == retries + 1
    assert [(where, row) for where, _, _, row in failed(result)] == [("answers", {"instruction": "Go."})]


def test_a_model_takes_the_words_of_both_worlds_for_one_setting(tmp_path: Path) -> None:
    ways = [
        {"max_new_tokens": 7, "stop": "END", "temperature": 0.2},
        {"max_tokens": 7, "stop_sequences": ["END"], "temperature": 0.2},
    ]
    sent = [
        bodies(lambda url, way=way: OllamaLLM("m", base_url=url, generation_kwargs=way), tmp_path / str(index), [])[0]
        for index, way in enumerate(ways)
    ]
    assert sent[0] == sent[1]
    assert {name: sent[0][0][name] for name in ("max_tokens", "stop", "temperature")} == {
        "max_tokens": 7,
        "stop": ["END"],
        "temperature": 0.2,
    }


# Values of other libraries.


def test_values_of_other_libraries_are_written_as_what_they_are(tmp_path: Path) -> None:
    rows = [{"f": np.float64(0.5), "i": np.int64(3), "b": b"x", "d": date(2020, 1, 2), "a": np.array([1, 2])}]
    with Pipeline("kept") as pipeline:
        LoadDataFromDicts(rows, name="seed") >> KeepColumns("keep", columns=["f", "i", "b", "d"])
    expected = {"f": 0.5, "i": 3, "b": b"x", "d": date(2020, 1, 2)}
    assert user_rows(run(pipeline, tmp_path / "out")["keep"]) == [expected]
    pipeline.save(tmp_path / "deep" / "saved.yaml")
    [again] = Pipeline.from_file(tmp_path / "deep" / "saved.yaml").steps[0].model_dump()["data"]
    assert again == expected | {"a": [1, 2]}
    with pytest.raises(SpecError, match="cannot be JSON"):
        pipeline.save(tmp_path / "saved.json")


def test_rows_that_a_program_held_are_asked_for_again(tmp_path: Path) -> None:
    with Pipeline("given") as pipeline:
        KeepColumns("keep", columns=["n"])
    result = pipeline.run(tmp_path / "out", dataset=pa.table({"n": [1, 2]}), engine="local")
    again = Pipeline.from_file(result.path / "pipeline.yaml")
    with pytest.raises(InputError, match="put a loader in its place"):
        again.run(tmp_path / "again", engine="local")


# Options in the words of distilabel.


def test_a_schema_in_its_envelope_is_the_schema() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
    step_of = TextGeneration(llm=MODEL, template="x", structured_output={"format": "json", "schema": schema})
    assert step_of.writes() == TextGeneration(llm=MODEL, template="x", structured_output=schema).writes()
    step_of = TextGeneration(llm=MODEL, template="x", structured_output={"format": "regex", "schema": "a+"})
    assert step_of.writes() == TextGeneration(llm=MODEL, template="x", structured_output={"regex": "a+"}).writes()


def test_an_empty_system_prompt_is_none(tmp_path: Path) -> None:
    with serve() as server:
        llm = LLM("openai/loopback", base_url=server.base_url)
        with Pipeline("silent") as pipeline:
            seed = LoadDataFromDicts(
                [{"about": "a", "system": "Be kind."}, {"about": "b", "system": None}], name="seed"
            )
            seed >> TextGeneration("ask", llm=llm, template="{{ about }}", system_prompt="{{ system }}")
        run(pipeline, tmp_path / "out")
        roles = {request.body["messages"][-1]["content"]: len(request.body["messages"]) for request in server.requests}
    assert roles == {"a": 2, "b": 1}
