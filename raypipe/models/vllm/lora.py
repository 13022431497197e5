"""Finds the folder of a LoRA adapter, and fetches one that is on the Hugging Face hub.

Knows nothing of engines. It is done before one is loaded: an engine dies of an adapter that is not there.
"""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError

_HUB_NAME = re.compile(r"\w[\w.-]*/[\w.-]+")
_CONFIG = "adapter_config.json"


def adapter_folder(llm: LLM) -> str | None:
    """The folder of the adapter of `llm`; `None` without one. Raises InfrastructureError where it cannot be had."""
    if llm.lora is None:
        return None
    folder = Path(llm.lora).expanduser()
    if not folder.is_dir():
        if not _HUB_NAME.fullmatch(llm.lora):
            raise _missing(llm, f"is no folder (relative paths start at {str(Path.cwd())!r})")
        folder = _fetched(llm, llm.lora)
    if not (folder / _CONFIG).is_file():
        raise _missing(llm, f"has no {_CONFIG}, so it is no LoRA adapter")
    return str(folder.resolve())


def _fetched(llm: LLM, name: str) -> Path:
    try:
        return Path(import_module("huggingface_hub").snapshot_download(name))
    except ImportError:
        raise _missing(llm, "is no folder, and without huggingface_hub nothing can be fetched") from None
    except Exception as error:  # noqa: BLE001 - the hub's client raises errors of its own, of HTTP and of files
        said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise _missing(llm, f"is no folder, and cannot be had from the Hugging Face hub: {said}") from None


def _missing(llm: LLM, problem: str) -> InfrastructureError:
    way_out = "name a folder that is there where the engine runs, or an adapter on the hub that can be reached"
    return InfrastructureError(f"model {llm.label!r}: lora={llm.lora!r} {problem}; {way_out}")
