"""What is said of a model whose server is started for it, before anything is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from raypipe.contracts.llm import SEQUENCES
from raypipe.contracts.model_pool import make_pool, name_members
from raypipe.errors import InfrastructureError, SpecError
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.worker.replica import ReplicaSetup
from raypipe.files.model_choices import choose_in_spec, read_choice
from raypipe.files.schema import parse_spec
from raypipe.models import LLM, check_model, engine_gpus, gpus_of
from raypipe.models.vllm import options
from raypipe.models.vllm.options import is_cpu_build
from raypipe.models.vllm.serving import command_line
from raypipe.pipeline import Pipeline
from raypipe.plan.plan import Pool
from raypipe.plan.resources import beside_servers
from raypipe.steps import LoadDataFromDicts, TextGeneration

SERVED = LLM("vllm-server/org/model", serve=True, gpus=2)


def problems(llm: LLM) -> str:
    return "\n".join(map(str, check_model(llm)))


def asking(*llms: LLM) -> Pipeline:
    with Pipeline("served") as pipeline:
        step = LoadDataFromDicts([{"instruction": "a"}])
        for number, llm in enumerate(llms):
            following = TextGeneration(f"ask{number}", llm=llm, output=f"answer{number}")
            step >> following
            step = following
    return pipeline


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        (LLM("openai/gpt", serve=True, api_key_env="PATH"), "serve: only vLLM's server is started"),
        (LLM("vllm/org/model", serve=True), "serve: only vLLM's server is started"),
        (LLM("vllm-server/m", serve=True, base_url="http://h:1/v1"), "serve: a server that is started has no address"),
        (LLM("vllm-server/m", serve=True, api_key_env="PATH"), "api_key_env: vLLM's server takes its key from"),
        (LLM("vllm-server/m", serve=True, engine={"served_model_name": "m"}), "is what the uri names"),
        (LLM("vllm-server/m", serve=True, engine={"distributed_executor_backend": "ray"}), "the GPUs of one node"),
        (LLM("vllm-server/m", serve=True, lora="a"), "lora: is for models that run here"),
        (LLM("vllm-server/m", engine={"max_num_seqs": 4}), "engine: is for models that run here"),
        (LLM("vllm-server/m", options={"idle_s": 4}), "idle_s"),
        (LLM("vllm-server/m", serve=True, options={"idle_ms": 4}), "(did you mean 'idle_s'?)"),
    ],
)
def test_what_cannot_be_served_is_refused(llm: LLM, said: str) -> None:
    assert said in problems(llm)


def test_what_can_be_served_is_not() -> None:
    assert problems(SERVED.model_copy(update={"options": {"idle_s": 0, "load_timeout_s": 10}})) == ""


@pytest.mark.vllm
def test_a_misspelt_option_of_the_engine_is_found() -> None:
    pytest.importorskip("vllm")
    assert "did you mean 'max_num_seqs'?" in problems(LLM("vllm-server/m", serve=True, engine={"max_num_seq": 4}))


def test_the_workers_that_ask_need_no_gpu_but_the_server_does() -> None:
    assert (gpus_of(SERVED), engine_gpus(SERVED)) == (0, 2)
    plan = asking(SERVED, SERVED.model_copy(update={"temperature": 0.5})).plan()
    assert beside_servers(plan, {"GPU": 3.0, "CPU": 1.0}) == {"GPU": 1.0, "CPU": 1.0}
    assert "vllm-server/org/model, 1 × 288 in flight, served with 2 GPUs" in plan.describe()


def test_models_that_sample_otherwise_share_a_server_and_those_with_other_options_do_not() -> None:
    assert SERVED.server_key == SERVED.model_copy(update={"temperature": 0.5, "replicas": 3}).server_key
    others = [{"gpus": 1}, {"engine": {"max_num_seqs": 4}}, {"uri": "vllm-server/org/other"}]
    assert len({SERVED.server_key, *(SERVED.model_copy(update=other).server_key for other in others)}) == 4


def test_all_workers_together_keep_the_engine_busy() -> None:
    assert SERVED.in_flight(1) > SEQUENCES
    assert SERVED.in_flight(2) * 2 >= SERVED.in_flight(1) > SERVED.in_flight(2)
    assert LLM("vllm-server/m", serve=True, engine={"max_num_seqs": 8}).in_flight(1) == 12


def test_a_worker_asks_at_the_address_that_it_is_told() -> None:
    pool = Pool("p", SERVED, 1, 1)
    servers = {SERVED.server_key: "http://h:1/v1"}
    run = RunContext(RunOptions(Path("out")), Path("parts"), Path("calls"), "owner", servers=servers)
    setup = ReplicaSetup("p:0", pool, {}, run)
    assert setup.reached(SERVED).base_url == "http://h:1/v1"
    other = LLM("vllm-server/other", base_url="http://h:2/v1")
    assert name_members(setup.reached(make_pool([SERVED, other])))["vllm-server/other"] == other
    assert setup.reached(other) == other


def test_no_server_is_started_without_ray(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="servers are started on Ray"):
        asking(SERVED).run(tmp_path / "out", engine="local")


def test_no_server_is_started_without_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    options._folder.cache_clear()
    try:
        with pytest.raises(SpecError, match="needs vLLM"):
            asking(SERVED).run(tmp_path / "out")
    finally:
        options._folder.cache_clear()


@pytest.mark.ray
@pytest.mark.skipif(not is_cpu_build(), reason="vLLM is not installed")
def test_a_server_that_wants_more_gpus_than_there_are_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(InfrastructureError, match="the servers want 2 GPUs and there are 0"):
        asking(SERVED).run(tmp_path / "out")


def test_another_model_or_address_is_not_served() -> None:
    spec = parse_spec(
        "name: p\nmodels:\n  m: {uri: vllm-server/org/model, serve: true, gpus: 1}\nsteps: []\n", "the file"
    )
    assert choose_in_spec(spec, read_choice("m=openai/gpt", "model")).models == {"m": {"uri": "openai/gpt"}}
    there = {"uri": "vllm-server/org/model", "base_url": "http://h:1/v1"}
    assert choose_in_spec(spec, read_choice("m=http://h:1/v1", "base_url")).models == {"m": there}


@pytest.mark.parametrize(
    ("given", "flags"),
    [
        ({"enforce_eager": True, "enable_chunked_prefill": False}, ["--enforce-eager", "--no-enable-chunked-prefill"]),
        ({"max_model_len": 64, "dtype": "float32"}, ["--max-model-len", "64", "--dtype", "float32"]),
        ({"hf_overrides": {"a": [1]}}, ["--hf-overrides", '{"a":[1]}']),
        ({"middleware": ["a", "b"], "revision": None, "empty": []}, ["--middleware", "a", "b"]),
    ],
)
def test_options_of_the_engine_are_written_as_the_server_takes_them(given: dict[str, Any], flags: list[str]) -> None:
    assert command_line(given) == flags
