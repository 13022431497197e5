"""Conversations of which a model writes both sides."""

from __future__ import annotations

import asyncio
import pickle
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from raypipe.contracts.llm import LLM, Completion
from raypipe.errors import RowError, SpecError
from raypipe.files.model_choices import read_choice
from raypipe.pipeline import Pipeline
from raypipe.row import ROW_ID
from raypipe.steps import KeepColumns, LoadDataFromDicts, resolve
from raypipe.steps.llm.magpie import Magpie, MagpieGenerator
from raypipe.steps.tasks import Magpie as TaskMagpie
from raypipe.steps.tasks import MagpieGenerator as TaskMagpieGenerator
from tests.loopback import serve
from tests.steps.scripted import ScriptedCaller

QWEN = "<|im_start|>user\n"


def step(llm=None, **fields):
    return Magpie(llm=llm or LLM("offline/x"), add_model_name=False, **fields)


def ask(step, *answers, row_id=b"r" * 16, **columns):
    caller = ScriptedCaller(*answers)
    row = {"system_prompt": None, ROW_ID: row_id, **columns}
    return asyncio.run(pickle.loads(pickle.dumps(step)).process_row(row, caller)), caller


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


def system(text):
    return {"role": "system", "content": text}


@pytest.mark.parametrize(
    ("fields", "answers", "made"),
    [
        ({}, [" Q ", " A\n"], {"instruction": "Q", "response": "A"}),
        ({"only_instruction": True, "n_turns": 3}, ["Q"], {"instruction": "Q"}),
        (
            {"n_turns": 2},
            ["Q", "A", "R", "B"],
            {"conversation": [user("Q"), assistant("A"), user("R"), assistant("B")]},
        ),
        (
            {"n_turns": 2, "end_with_user": True},
            ["Q", "A", "R"],
            {"conversation": [user("Q"), assistant("A"), user("R")]},
        ),
        ({"end_with_user": True}, ["Q"], {"conversation": [user("Q")]}),
        (
            {"include_system_prompt": True, "system_prompt": "Be brief."},
            ["Q", "A"],
            {"conversation": [system("Be brief."), user("Q"), assistant("A")]},
        ),
        (
            {"system_prompt": {"short": "Be brief."}},
            ["Q", "A"],
            {"instruction": "Q", "response": "A", "system_prompt_key": "short"},
        ),
        (
            {"system_prompt": {"short": ("Be brief.", 1)}, "only_instruction": True, "include_system_prompt": True},
            ["Q"],
            {"instruction": "Q", "system_prompt_key": "short"},
        ),
    ],
)
def test_what_is_written(fields, answers, made):
    declared = step(**fields)
    assert declared.problems() == []
    found, caller = ask(declared, *answers)
    assert found == made
    assert list(declared.writes()) == list(made)
    assert caller.answered == len(answers)


def test_the_user_is_asked_for_without_template_and_the_model_with_it():
    _, caller = ask(step(n_turns=2, system_prompt="Be brief."), "Q", "A", "R", "B")
    first, answer, second, last = caller.asked
    head = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n"
    assert (first.prompt, first.stop, first.messages) == (head, ("<|im_end|>",), ())
    assert (answer.prompt, answer.messages) == (None, (system("Be brief."), user("Q")))
    turns = "Q<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\n"
    assert second.prompt == head + turns
    assert last.messages == (system("Be brief."), user("Q"), assistant("A"), user("R"))


def prompt_of(step, **columns):
    return ask(step, "Q", "A", "R", "B", **columns)[1].asked[0].prompt


def test_where_the_system_prompt_comes_from():
    assert prompt_of(step()) == QWEN
    assert "over several turns" in prompt_of(step(n_turns=2))
    assert prompt_of(step(n_turns=2, system_prompt="")) == QWEN
    assert prompt_of(step(n_turns=2, only_instruction=True)) == QWEN
    assert "Be odd." in prompt_of(step(system_prompt="Be brief."), system_prompt="Be odd.")
    assert "Be brief." in prompt_of(step(system_prompt="Be brief."))
    assert prompt_of(step(system_prompt="Be brief."), system_prompt="") == QWEN
    own = ask(step(system_prompt={"short": "Be brief."}), "Q", "A", system_prompt="Be odd.")[0]
    assert own["system_prompt_key"] is None
    with pytest.raises(RowError, match="column 'system_prompt' is a list"):
        ask(step(), system_prompt=["a"])


def chosen(count=400, **fields):
    made = step(only_instruction=True, **fields)
    return [ask(made, "Q", row_id=number.to_bytes(16))[0]["system_prompt_key"] for number in range(count)]


def test_each_row_takes_a_prompt_by_its_identity_and_the_seed():
    even = {"system_prompt": {"a": "A", "b": "B"}}
    assert chosen(20, **even) == chosen(20, **even) != chosen(20, **even, seed=43)
    assert 150 < Counter(chosen(**even))["a"] < 250
    uneven = Counter(chosen(system_prompt={"a": ("A", 0.9), "b": ("B", 0.1), "c": ("C", 0)}))
    assert 330 < uneven["a"] < 390 and uneven["c"] == 0
    listed = step(only_instruction=True, system_prompt=["A", "B"])
    prompts = {ask(listed, "Q", row_id=number.to_bytes(16))[1].asked[0].prompt for number in range(20)}
    assert len(prompts) == 2


def test_rows_and_samples_are_variants_of_a_request():
    variants = [ask(step(), "Q", "A", row_id=bytes(16))[1].asked[0].variant for _ in range(2)]
    other = ask(step(), "Q", "A", row_id=b"x" * 16)[1].asked[0].variant
    assert variants[0] == variants[1] != other
    made = step(num_generations=2, group_generations=True, only_instruction=True)
    found, caller = ask(made, "Q", "R")
    assert found == {"instruction": ["Q", "R"]}
    assert caller.asked[0].variant != caller.asked[1].variant and caller.samples == [0, 1]


@pytest.mark.parametrize(("answer", "kind"), [("  ", "parse"), (Completion("half of", "length"), "length")])
def test_a_user_who_says_nothing_fails_the_row(answer, kind):
    with pytest.raises(RowError) as caught:
        ask(step(n_turns=2), "Q", "A", answer)
    assert caught.value.kind == kind


def unsound(**fields):
    llm = LLM("vllm-server/m", **fields.pop("llm", {}))
    return Magpie(llm=llm, **fields).problems()


def test_a_model_must_say_how_a_users_turn_begins():
    (found,) = unsound()
    assert found.startswith("model 'vllm-server/m' has no magpie_pre_query_template, so it cannot be made to speak as")
    assert unsound(llm={"magpie_pre_query_template": "llama3"}) == []
    assert "did you mean 'llama3'" in unsound(llm={"magpie_pre_query_template": "llama"})[0]
    assert "asks a model but has none" in Magpie().problems()[0]


def test_a_beginning_alone_is_for_a_first_instruction():
    llm = {"magpie_pre_query_template": "<|user|>\n"}
    assert unsound(llm=llm) == unsound(llm=llm, n_turns=2, only_instruction=True) == []
    assert unsound(llm=llm, n_turns=2)[0].startswith("wants several turns, but the model's magpie_pre_query_template")
    assert unsound(llm=llm, system_prompt="Be brief.")[0].startswith("wants a system prompt, but")
    with pytest.raises(RowError, match="the row has a system prompt, but") as caught:
        ask(step(LLM("vllm-server/m", **llm)), system_prompt="Be brief.")
    assert caught.value.kind == "template"


@pytest.mark.parametrize(
    ("prompts", "problem"),
    [
        ([], "there is no prompt to choose"),
        ({}, "there is no prompt to choose"),
        ({"a": ("A", 0)}, "one of them is more than 0"),
        ({"a": ("A", -1), "b": ("B", 2)}, "numbers from 0 on"),
        ({"a": ("A", 1), "b": "B"}, "system_prompt"),
    ],
)
def test_prompts_that_cannot_be_chosen(prompts, problem):
    with pytest.raises(SpecError, match=problem):
        step(system_prompt=prompts)


def test_the_names_are_distilabels():
    assert (TaskMagpie, TaskMagpieGenerator) == (Magpie, MagpieGenerator)
    assert (resolve("Magpie"), resolve("MagpieGenerator")) == (Magpie, MagpieGenerator)


def test_a_model_that_takes_anothers_place_takes_nothing_over_that_was_said_to_it():
    options = {"uri": "vllm-server/m", "magpie_pre_query_template": "llama3", "use_magpie_template": True, "seed": 1}
    options |= {"engine": {"max_num_seqs": 4}, "gpus": 1, "lora": "adapter"}
    changed = read_choice("offline/x", "model").applied(options)
    assert changed == {"uri": "offline/x", "seed": 1}
    assert Magpie(llm=LLM(**changed)).problems() == []


# Whole pipelines.


def generating(llm, num_rows=5, **fields):
    with Pipeline("magpie") as pipeline:
        MagpieGenerator("made", llm=llm, num_rows=num_rows, **fields) >> KeepColumns("kept", columns=["instruction"])
    return pipeline


def read(result, leaf):
    return [
        {name: value for name, value in row.items() if not name.startswith("_")}
        for row in result[leaf].to_arrow().to_pylist()
    ]


def test_a_generator_makes_rows_from_nothing(tmp_path: Path):
    with Pipeline("magpie") as pipeline:
        MagpieGenerator("made", llm=LLM("offline/x"), num_rows=30, system_prompt={"a": "Of bees.", "b": "Of ice."})
    rows = read(pipeline.run(tmp_path / "out", engine="local"), "made")
    assert list(rows[0]) == ["instruction", "response", "system_prompt_key", "model_name"]
    assert len({row["instruction"] for row in rows}) > 20
    assert {row["system_prompt_key"] for row in rows} == {"a", "b"}
    assert rows == read(pipeline.run(tmp_path / "again", engine="local"), "made")


def test_more_rows_begin_with_the_fewer_and_send_only_the_others(tmp_path: Path):
    few = read(generating(LLM("offline/x"), 3).run(tmp_path / "out", engine="local"), "kept")
    more = generating(LLM("offline/x"), 5).run(tmp_path / "out", engine="local")
    assert read(more, "kept")[:3] == few
    figures = more.manifest["steps"]["made"]
    assert (figures["calls_cached"], figures["calls_sent"], more.manifest["legs"][-1]["calls_sent"]) == (6, 10, 4)


def test_every_turn_is_a_call_that_is_not_made_again(tmp_path: Path):
    def answer(body):
        return f"{body['prompt']}?" if "prompt" in body else f"{body['messages'][-1]['content']}!"

    with serve(answer=answer) as server:
        llm = LLM("vllm-server/m", base_url=server.base_url, magpie_pre_query_template="llama3")
        with Pipeline("magpie") as pipeline:
            prompts = LoadDataFromDicts([{"system_prompt": "Be brief."}, {"system_prompt": "Be odd."}])
            prompts >> Magpie("made", llm=llm, n_turns=2)
        rows = read(pipeline.run(tmp_path / "out", engine="local"), "made")
        paths = Counter(logged.path for logged in server.requests)
        again = pipeline.run(tmp_path / "out", engine="local")
        assert len(server.requests) == 8
    assert paths == {"/v1/completions": 4, "/v1/chat/completions": 4}
    assert read(again, "made") == rows
    assert [row["system_prompt"] for row in rows] == ["Be brief.", "Be odd."]
    first, answered, second, last = (message["content"] for message in rows[0]["conversation"])
    assert "Be brief.<|eot_id|>" in first and answered == f"{first}!"
    assert answered in second and last == f"{second}!"
    calls = pq.read_table(tmp_path / "out" / "calls").to_pylist()
    assert Counter((call["step"], call["ordinal"], call["sample"]) for call in calls) == {("made", 0, 0): 8}


def test_equal_calls_of_one_row_have_ordinals(tmp_path: Path):
    with serve(answer=lambda body: "same") as server:
        llm = LLM("vllm-server/m", base_url=server.base_url, magpie_pre_query_template="{% if messages %}{% endif %}U:")
        with Pipeline("magpie") as pipeline:
            MagpieGenerator("made", llm=llm, num_rows=1, n_turns=3, end_with_user=True)
        pipeline.run(tmp_path / "out", engine="local")
        assert [logged.path for logged in server.requests].count("/v1/completions") == 3
    calls = pq.read_table(tmp_path / "out" / "calls").to_pylist()
    assert sorted(call["ordinal"] for call in calls) == [0, 0, 0, 1, 2]


def test_a_pipeline_is_written_down_and_read_again(tmp_path: Path):
    llm = LLM("vllm-server/m", magpie_pre_query_template="qwen2", use_magpie_template=True)
    prompts = {"a": ("Of bees.", 0.25), "b": ("Of ice.", 0.75)}
    with Pipeline("magpie") as pipeline:
        loader = LoadDataFromDicts([{"system_prompt": "Be brief."}])
        loader >> Magpie("asked", llm=llm, n_turns=2, include_system_prompt=True)
        MagpieGenerator("made", llm=llm, num_rows=3, system_prompt=prompts, end_with_user=True)
    (tmp_path / "magpie.yaml").write_text(pipeline.to_yaml())
    again = Pipeline.from_file(tmp_path / "magpie.yaml")
    assert again.steps[1:] == pipeline.steps[1:]
    assert again.to_yaml() == pipeline.to_yaml()
    assert again.plan().describe() == pipeline.plan().describe()
    assert set(again.dry_run().samples) == {"asked", "made"}


def test_what_cannot_work_is_said_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "k")
    able = LLM("anthropic/claude", magpie_pre_query_template="llama3")
    for pipeline, problem in (
        (generating(LLM("vllm-server/m")), "step 'made': model 'vllm-server/m' has no magpie_pre_query_template"),
        (generating(able), "model 'anthropic/claude': anthropic takes whole conversations only"),
        (generating(LLM("offline/x"), None), "needs the option 'num_rows'"),
        (generating(LLM("offline/x", temperature=0)), "makes equal rows of a model with temperature=0"),
    ):
        with pytest.raises(SpecError, match=problem):
            pipeline.run(tmp_path / "out", engine="local")
    assert not (tmp_path / "out").exists()
    assert generating(LLM("offline/x"), None).run(
        tmp_path / "out", engine="local", parameters={"made": {"num_rows": 2}}
    )


def test_a_generator_comes_first():
    with Pipeline("magpie") as pipeline:
        LoadDataFromDicts([{"a": 1}]) >> MagpieGenerator("made", llm=LLM("offline/x"), num_rows=1)
    with pytest.raises(SpecError, match="reads its own rows and cannot come after"):
        pipeline.plan()
