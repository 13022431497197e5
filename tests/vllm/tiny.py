"""Makes a tiny Llama with random weights and a byte-level tokenizer, and serves it with vLLM's own OpenAI server."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_TIMEOUT_S = 240.0
ENGINE = {"enforce_eager": True, "kv_cache_memory_bytes": 1 << 28, "max_model_len": 2048, "dtype": "float32"}
"""Options of an engine that has little room."""
_WIDTH = 128
_RANK = 8
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>{% endfor %}<|assistant|>"
)


def make_model(folder: Path, seed: int = 0) -> Path:
    """A model of 2 layers that vLLM loads; its text is noise, its grammar-bound JSON is valid."""
    import torch
    from transformers import LlamaForCausalLM

    config = _configuration(folder)
    torch.manual_seed(seed)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_reward_model(folder: Path, numbers: int) -> Path:
    """A model of the same size that gives so many numbers for a conversation."""
    import torch
    from transformers import LlamaForSequenceClassification

    config = _configuration(folder)
    config.num_labels = numbers
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)
    return folder


def make_adapter(folder: Path, seed: int) -> Path:
    """A LoRA adapter for the model that writes; each `seed` gives another."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    targets = ["q_proj", "v_proj"]
    said = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": _RANK, "lora_alpha": 64, "target_modules": targets}
    (folder / "adapter_config.json").write_text(json.dumps({**said, "bias": "none", "lora_dropout": 0.0}))
    torch.manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for layer in range(2):
        for name in targets:
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = torch.randn(_RANK, _WIDTH)
            tensors[f"{place}.lora_B.weight"] = torch.randn(_WIDTH, _RANK)
    save_file(tensors, str(folder / "adapter_model.safetensors"))
    return folder


def _configuration(folder: Path) -> Any:
    """What models of this size have in common; their tokenizer is written into the folder."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|end|>", "<|user|>", "<|assistant|>", "<|system|>"]
    vocabulary = {token: number for number, token in enumerate(special + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = CHAT_TEMPLATE
    fast.save_pretrained(folder)
    return LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=_WIDTH,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=16384,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serve(folder: Path, log: Path, *options: str) -> Generator[str]:
    """vLLM's OpenAI server over the model in `folder`, named `tiny`; yields its base URL."""
    port = _free_port()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny", "--host", "127.0.0.1", "--port", str(port), "--max-model-len", "16384"]
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']
    command += ["--enforce-eager", "--max-num-seqs", "64", "--dtype", "float32", *options]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "OMP_NUM_THREADS": "2",
    }
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    try:
        _wait(f"http://127.0.0.1:{port}", process, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{address}/v1/models", timeout=5) as answer:
                json.load(answer)
                return
        except (urllib.error.URLError, OSError, ValueError):
            time.sleep(0.5)
    raise RuntimeError(f"vLLM did not start: {log.read_text()[-3000:]}")
