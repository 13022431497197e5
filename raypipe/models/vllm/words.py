"""I keep what an engine says, and find in it the words that say why it failed.

Its processes write to a file of their own; on a terminal it would stand between the lines of the progress, and in a
traceback the cause is hard to find.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path

import orjson

_TAIL_BYTES = 256 << 10
_LONGEST = 400
_SAID = re.compile(r"(?:^|[\s\]])(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt)): (\S.*)$")
_ECHOES = re.compile(
    r"EngineDeadError|Engine core initialization failed|Worker failed|WorkerProc initialization failed|"
    r"Engine core proc|ProcessLookupError|CancelledError|See (root|stack)|LoggingConfig"
)
"""What other processes say of one that failed."""
_ADVICE = (
    (
        re.compile(r"out of memory|OutOfMemory|No available memory|KV cache|insufficient memory", re.IGNORECASE),
        "lower max_model_len, max_num_seqs or gpu_memory_utilization in `engine`, or spread the model over more GPUs "
        "with tensor_parallel_size",
    ),
    (
        re.compile(r"gated|401 Client|403 Client|access to model", re.IGNORECASE),
        "accept its terms on the Hugging Face hub and set HF_TOKEN where the engine runs",
    ),
    (
        re.compile(r"repository|not a valid model|config\.json|couldn't connect|offline mode|does not appear to have"),
        "name a folder with a model in it, or a model of the Hugging Face hub that can be reached",
    ),
)


def advice(said: str) -> str:
    """What to do about it, to be put behind it; empty where nothing is known."""
    return next((f"; {what}" for pattern, what in _ADVICE if pattern.search(said)), "")


class Diary:
    """What one engine says: a file in a folder of its own."""

    def __init__(self, label: str) -> None:
        name = re.sub(r"\W+", "-", label).strip("-")[-60:]
        self._folder = Path(tempfile.mkdtemp(prefix=f"raypipe-engine-{name}-"))
        self.path = self._folder / "engine.log"
        self.path.touch()
        self.settings = self._folder / "logging.json"
        """A configuration for Python's logging, in vLLM's processes."""
        self.settings.write_bytes(orjson.dumps(_settings(self.path)))

    @contextmanager
    def listening(self) -> Generator[None]:
        """What goes to standard output and standard error inside, and what a process started inside sends there."""
        for stream in (sys.stdout, sys.stderr):
            with suppress(ValueError, AttributeError):  # closed, or none
                stream.flush()
        saved = {number: os.dup(number) for number in (1, 2)}
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        try:
            for number in saved:
                os.dup2(file, number)
            yield
        finally:
            for number, own in saved.items():
                os.dup2(own, number)
                os.close(own)
            os.close(file)

    def cause(self, error: BaseException | None = None) -> str:
        """Why it failed, in the words of what failed first; those of `error` where it said nothing."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        found = [match for line in lines if (match := _SAID.search(line.rstrip())) and not _ECHOES.search(line)]
        if found:
            return _short(f"{found[-1][1]}: {found[-1][2]}")
        if error is None:
            return ""
        return _short(f"{type(error).__name__}: {error}")

    def end(self, keep: bool = False) -> None:
        """Remove it, unless it explains a failure."""
        if not keep:
            self.path.unlink(missing_ok=True)
            self.settings.unlink(missing_ok=True)
            with suppress(OSError):
                self._folder.rmdir()


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"


def _settings(path: Path) -> dict[str, object]:
    handler = {"class": "logging.FileHandler", "filename": str(path), "formatter": "plain"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(levelname)s %(processName)s %(message)s"}},
        "handlers": {"file": handler},
        "loggers": {"vllm": {"handlers": ["file"], "level": "INFO", "propagate": False}},
    }
