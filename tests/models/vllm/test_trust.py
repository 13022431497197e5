"""Options of vLLM's engine that run code, read files or open connections are nothing that a file may set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from raypipe.errors import SpecError
from raypipe.models.vllm.options import _ENGINE, _fields, _folder
from raypipe.models.vllm.trust import CHOSEN, GUARDED, NAMED, OVERRIDES, PLAIN
from raypipe.pipeline import Pipeline


def load(folder: Path, allow: tuple[str, ...] = (), *, serve: bool = False, **engine: Any) -> None:
    llm: dict[str, Any] = {"uri": f"{'vllm-server' if serve else 'vllm'}/org/name", "engine": engine}
    seed = {"type": "LoadDataFromDicts", "data": [{"topic": "sea"}]}
    ask = {"type": "TextGeneration", "template": "{{ topic }}", "llm": llm | ({"serve": True} if serve else {})}
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({"name": "guarded", "steps": [seed, ask]}))
    Pipeline.from_file(path, allow)


RISKS: list[tuple[str, Any]] = [
    *((name, "evil.module.Class") for name in sorted(GUARDED) if not name.startswith("_")),
    *((name, "evil.module.Class") for name in sorted(CHOSEN)),
    ("trust_remote_code", True),
    ("load_format", "pt"),
    ("kv_transfer_config", {"kv_connector_module_path": "evil.module"}),
    ("hf_overrides", {"auto_map": {"AutoConfig": "evil.Class"}}),
    ("hf_overrides", {"text_config": {"auto_map": {"AutoConfig": "evil.Class"}}}),
    ("hf_overrides", "evil.module:function"),
    ("structured_outputs_config", {"backend": "evil.module"}),
    ("structured_outputs_config", {"backend": "xgrammar", "reasoning_parser_plugin": "evil.py"}),
    ("an_option_of_a_newer_version", "evil.module"),
]


@pytest.mark.parametrize("serve", [False, True], ids=["engine", "server"])
@pytest.mark.parametrize(("name", "value"), RISKS, ids=[f"{name}-{number}" for number, (name, _) in enumerate(RISKS)])
def test_an_option_that_runs_code_is_allowed_by_name(tmp_path: Path, name: str, value: Any, serve: bool) -> None:
    with pytest.raises(SpecError, match=f"--allow-import vllm:{name}"):
        load(tmp_path, serve=serve, **{name: value})
    load(tmp_path, (f"vllm:{name}",), serve=serve, **{name: value})


@pytest.mark.parametrize(
    "engine",
    [
        {"tensor_parallel_size": 2, "max_model_len": 4096, "quantization": "fp8", "enforce_eager": True},
        {"load_format": "safetensors", "distributed_executor_backend": "ray", "tokenizer_mode": "mistral"},
        {"tokenizer": "org/tokenizer", "generation_config": "vllm"},
        {"trust_remote_code": False, "worker_cls": None},
        {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}},
        {"hf_overrides": {"rope_scaling": {"type": "yarn", "factor": 4.0}}},
    ],
    ids=str,
)
def test_what_only_sets_numbers_and_names_is_free(tmp_path: Path, engine: dict[str, Any]) -> None:
    load(tmp_path, **engine)


@pytest.mark.skipif(_folder() is None, reason="vLLM is not installed")
def test_every_option_of_this_vllm_is_sorted() -> None:
    """A new one has to be put into one of the sets; until then a file may not set it."""
    sorted_names = [*PLAIN, *NAMED, *CHOSEN, *GUARDED, OVERRIDES]
    assert len(sorted_names) == len(set(sorted_names))
    assert set(_fields(*_ENGINE)) - set(sorted_names) == set()
