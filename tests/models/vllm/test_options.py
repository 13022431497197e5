"""What can be known of a model that runs here, without loading it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from raypipe.errors import InfrastructureError, SpecError
from raypipe.models import LLM, check_model, gpus_of, missing_engine, open_model, vLLM
from raypipe.models.vllm.devices import claimed, gpus_here
from raypipe.models.vllm.engine_log import EngineLog, advice
from raypipe.models.vllm.options import engine_options, is_cpu_build, version_problem
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts
from raypipe.steps.tasks import TextGeneration
from tests.acceptance.processes import await_end

needs_vllm = pytest.mark.skipif(
    importlib.util.find_spec("vllm") is None, reason="vLLM is not installed, so its options are not known"
)


def problems(llm: LLM) -> str:
    return "\n".join(map(str, check_model(llm)))


@needs_vllm
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"engine": {"max_num_seq": 4}}, "has no option 'max_num_seq' (did you mean 'max_num_seqs'?)"),
        ({"engine": {"model": "other"}}, "engine: 'model' is what the uri names; leave it out"),
        ({"extra": {"topk": 4}}, "has no sampling parameter 'topk' (did you mean 'top_k'?)"),
        ({"extra": {"n": 2}}, "extra: 'n' has an option or a request of its own; leave it out"),
    ],
)
def test_what_vllm_does_not_know_is_refused_before_it_loads(fields: dict[str, object], said: str) -> None:
    assert said in problems(LLM("vllm/org/model", **fields))


@needs_vllm
@pytest.mark.skipif(not is_cpu_build(), reason="only an engine on processors dies of prompts in parts")
def test_an_engine_on_processors_reads_no_prompt_in_parts() -> None:
    assert engine_options(LLM("vllm/m"))["enable_chunked_prefill"] is False
    parts = {"max_num_batched_tokens": 512}
    assert "reads long prompts in parts" in problems(LLM("vllm/m", engine=parts))
    assert problems(LLM("vllm/m", engine=parts, options={"seeds": False})) == ""
    assert "enable_chunked_prefill" not in engine_options(LLM("vllm/m", engine=parts))


def test_a_model_that_runs_here_has_no_address() -> None:
    assert 'a server is LLM("vllm-server/…", base_url=…)' in problems(LLM("vllm/m", base_url="http://localhost:1/v1"))


@pytest.mark.parametrize("uri", ["vllm-server/m", "openai/m", "offline/m"])
def test_what_is_said_to_an_engine_is_said_to_no_other_model(uri: str) -> None:
    found = problems(LLM(uri, engine={"max_num_seqs": 4}, gpus=1, lora="a"))
    for name in ("engine", "gpus", "lora"):
        assert f"{name}: is for models that run here" in found


def test_where_vllm_is_missing_the_sentence_says_what_to_install() -> None:
    found = missing_engine(LLM("vllm/org/model"))
    if importlib.util.find_spec("vllm") is None:
        assert "pip install 'raypipe[vllm]'" in str(found[0])
    else:
        assert found == []
    assert missing_engine(LLM("vllm-server/org/model")) == []


@pytest.mark.parametrize(
    ("fields", "gpus"),
    [({"gpus": 0.5}, 0.5), ({"gpus": 0}, 0), ({"gpus": 3, "engine": {"tensor_parallel_size": 2}}, 3)],
)
def test_gpus_are_those_named(fields: dict[str, object], gpus: float) -> None:
    assert gpus_of(LLM("vllm/m", **fields)) == gpus
    assert gpus_of(LLM("openai/m")) == 0


def test_a_share_of_a_gpu_is_a_share_of_its_memory() -> None:
    assert engine_options(LLM("vllm/m", gpus=0.5))["gpu_memory_utilization"] == 0.45
    assert (
        engine_options(LLM("vllm/m", gpus=0.5, engine={"gpu_memory_utilization": 0.3}))["gpu_memory_utilization"] == 0.3
    )


def test_engines_of_one_process_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    assert gpus_here() == 3
    whole, half, other = (
        claimed(LLM("vllm/a", gpus=1)),
        claimed(LLM("vllm/b", gpus=0.5)),
        claimed(LLM("vllm/c", gpus=0.5)),
    )
    try:
        assert {*whole.names, *half.names, *other.names} <= {"4", "6", "7"}
        assert not set(whole.names) & {*half.names, *other.names}
        with pytest.raises(InfrastructureError, match="wants 2 GPUs; this process sees 3"):
            claimed(LLM("vllm/d", gpus=2))
        with whole.visible():
            assert os.environ["CUDA_VISIBLE_DEVICES"] == whole.names[0]
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "4,6,7"
    finally:
        for devices in (whole, half, other):
            devices.give_back()
    claimed(LLM("vllm/d", gpus=3)).give_back()


def test_steps_that_ask_one_engine_in_other_ways_share_its_pool() -> None:
    def step(name: str, **fields: object) -> TextGeneration:
        return TextGeneration(name, llm=LLM("vllm/m", **fields), template="{{ x }}")

    with Pipeline("shared") as pipeline:
        rows = LoadDataFromDicts([{"x": "a"}])
        rows >> [
            step("warm", temperature=1.0),
            step("cold", temperature=0.0),
            step("other", engine={"max_model_len": 64}),
        ]
    plan = pipeline.plan()
    pools = {name: planned.pool for name, planned in plan.stages[0].steps.items()}
    assert pools["warm"] == pools["cold"] == "vllm/m"
    assert pools["other"] == "vllm/m #2"
    assert [llm.temperature for llm in plan.pools["vllm/m"].llms] == [1.0, 0.0]


def test_calls_in_flight_keep_an_engine_busy_and_no_more() -> None:
    assert LLM("vllm/m", engine={"max_num_seqs": 64}).in_flight(2) == 72
    assert LLM("vllm/m", concurrency=10).in_flight(2) == 5
    assert LLM("openai/m").in_flight(2) == 32


def test_the_words_that_say_why_are_found_among_those_of_others() -> None:
    log = EngineLog("vllm/m")
    log.path.write_text(
        "INFO loading\n"
        "ERROR worker torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB\n"
        "ERROR core Exception: WorkerProc initialization failed due to an exception\n"
        "RuntimeError: Engine core initialization failed. See root cause above.\n"
    )
    said = log.cause()
    assert said == "OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
    assert "lower max_model_len" in advice(said)
    log.end()
    assert not log.path.exists()


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
            "  Value error, Invalid repository ID or local directory specified: '/x'. [type=value_error, a=1]\n"
            "    For further information visit https://errors.pydantic.dev\n",
            "ValidationError: Invalid repository ID or local directory specified: '/x'",
        ),
        (
            "usage: api_server.py [-h]\napi_server.py: error: argument --dtype: invalid choice: 'f'\n",
            "argument --dtype: invalid choice: 'f'",
        ),
    ],
)
def test_what_is_said_over_several_lines_is_told_in_one(lines: str, said: str) -> None:
    log = EngineLog("vllm-server/m")
    log.path.write_text(lines)
    assert log.cause() == said
    log.end()


def test_a_process_ends_with_the_one_that_has_started_it(tmp_path: Path) -> None:
    log, pid = EngineLog("vllm/m"), tmp_path / "pid"
    works = f"spawn_main = 1; import os, time; open({str(pid)!r}, 'w').write(str(os.getpid())); time.sleep(100)"
    starts = f"import subprocess; subprocess.run([{str(log.program)!r}, '-c', {works!r}])"
    with subprocess.Popen([sys.executable, "-c", starts]) as parent:
        while not (pid.exists() and pid.read_text()):
            time.sleep(0.05)
        child = psutil.Process(int(pid.read_text()))
        parent.kill()
    assert await_end([child]) == []
    log.end()


@pytest.mark.parametrize(
    ("said", "next_step"),
    [
        ("OSError: You are trying to access a gated repo.", "set HF_TOKEN"),
        ("ValueError: Invalid repository ID or local directory specified: 'x'", "name a folder with a model in it"),
        ("KeyError: 'odd'", ""),
    ],
)
def test_the_next_step_is_said(said: str, next_step: str) -> None:
    assert next_step in advice(said)
    assert bool(advice(said)) == bool(next_step)


def test_what_a_process_says_that_is_spawned_goes_to_the_diary(capfd: pytest.CaptureFixture[str]) -> None:
    log = EngineLog("vllm/m")
    with log.listening():
        print("from the parent")
        from multiprocessing import spawn

        subprocess.run([os.fsdecode(spawn.get_executable()), "-c", "print('from the child')"], check=True)
    assert os.fsdecode(spawn.get_executable()) == sys.executable
    assert log.path.read_text() == "from the parent\nfrom the child\n"
    assert capfd.readouterr() == ("", "")
    log.end()


def test_programs_of_distilabel_name_an_engine() -> None:
    llm = vLLM(
        "org/m", dtype="bfloat16", extra_kwargs={"tensor_parallel_size": 2}, generation_kwargs={"max_new_tokens": 9}
    )
    assert llm == LLM("vllm/org/m", engine={"dtype": "bfloat16", "tensor_parallel_size": 2}, max_tokens=9)


def test_an_engine_offers_tools_that_it_must_call_and_no_others() -> None:
    from raypipe.contracts.llm import Request

    tool = {"name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}}
    model = open_model(LLM("vllm/m"))
    payload = model.payload(Request(({"role": "user", "content": "x"},), tools=(tool,))).body
    assert payload["structured_outputs"]["json"]["items"]["properties"]["name"] == {"const": "look"}
    with pytest.raises(SpecError, match="name it vllm-server"):
        model.payload(Request(({"role": "user", "content": "x"},), tools=(tool,), must_call=False))


def test_a_model_is_named_by_a_folder_as_well(tmp_path: Path) -> None:
    llm = LLM(f"vllm/{tmp_path}")
    assert (llm.provider, llm.model) == ("vllm", str(tmp_path))


@pytest.mark.parametrize(("installed", "says"), [("0.32.0", ""), ("0.32.1+cpu", ""), ("0.33.0", "supports 0.32")])
def test_another_version_is_named_where_internals_fail(installed: str, says: str) -> None:
    problem = version_problem(installed)
    assert says in problem and bool(says) == (f"vLLM {installed} is installed" in problem)
