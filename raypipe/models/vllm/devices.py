"""Shares the GPUs of this process among its engines.

Knows nothing of what a GPU is used for. Where Ray runs an engine, the process sees the GPUs that Ray gave it, and the
one engine takes them all; in a process with several engines each gets its own, or a share of one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError
from raypipe.models.vllm.options import gpus_of, takes_gpus_from_ray

_VISIBLE = "CUDA_VISIBLE_DEVICES"
_lock = threading.Lock()
_taken: dict[str, float] = {}
"""Shares of GPUs in use by engines of this process, by their names in `CUDA_VISIBLE_DEVICES`."""


@dataclass(frozen=True)
class Devices:
    """GPUs that an engine has, each whole or a share of it; none where it computes on CPUs."""

    names: tuple[str, ...]
    share: float

    @contextmanager
    def visible(self) -> Generator[None]:
        """Processes that are started inside see these GPUs only."""
        if not self.names:
            yield
            return
        before = os.environ.get(_VISIBLE)
        os.environ[_VISIBLE] = ",".join(self.names)
        try:
            yield
        finally:
            if before is None:
                del os.environ[_VISIBLE]
            else:
                os.environ[_VISIBLE] = before

    def give_back(self) -> None:
        """Let other engines have them."""
        with _lock:
            for name in self.names:
                _taken[name] -= self.share


def claimed(llm: LLM) -> Devices:
    """GPUs for an engine, the least used first. Raises InfrastructureError where too few are free."""
    wanted = gpus_of(llm)
    if not wanted or takes_gpus_from_ray(llm):
        return Devices((), 0.0)
    number, share = max(1, round(wanted)), min(1.0, wanted)
    with _lock:
        free = sorted(_names(), key=lambda name: _taken.get(name, 0.0))
        fitting = [name for name in free if _taken.get(name, 0.0) + share <= 1.0 + 1e-9]
        if len(fitting) < number:
            problem = (
                f"model {llm.label!r} wants {wanted:g} GPUs; this process sees {len(free)}, {len(fitting)} are free"
            )
            raise InfrastructureError(f"{problem}; use smaller models or a machine with more")
        chosen = tuple(fitting[:number])
        for name in chosen:
            _taken[name] = _taken.get(name, 0.0) + share
    return Devices(chosen, share)


def gpus_here() -> int:
    """How many GPUs this process may use: as many as `CUDA_VISIBLE_DEVICES` names.

    Without that variable, all devices of NVIDIA's that the machine has.
    """
    return len(_names())


def _names() -> list[str]:
    said = os.environ.get(_VISIBLE)
    if said is not None:
        return [name.strip() for name in said.split(",") if name.strip() not in ("", "-1", "NoDevFiles")]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
