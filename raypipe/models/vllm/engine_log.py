"""Keeps what an engine prints, and finds in it the line that says why it failed. Knows nothing of requests.

Its processes write to a file of their own; on a terminal it would stand between the lines of the progress, and in a
traceback the cause is hard to find.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from itertools import takewhile
from multiprocessing import set_executable, spawn
from pathlib import Path
from shlex import quote
from typing import Any, TextIO, cast

import orjson

_TAIL_BYTES = 256 << 10
_LONGEST = 400
_SAID = re.compile(r"(?:^|[\s\]])(?:[A-Za-z_][\w.]*\.)?([A-Z]\w*(?:Error|Exception|Interrupt)): (\S.*)$")
_REFUSED = re.compile(r"[\w.]+: error: (.*)$")
"""How a command line is refused."""
_DETAIL = re.compile(r"\s+(?!For further information)\S")
"""A line that goes on with the error above it, as pydantic's do."""
_COUNTED = re.compile(r"(?<=ValidationError: )\d+ validation errors? for \w+\s+(?:Value error, )?(?=\S)")
"""What pydantic says before it says what is wrong."""
_ECHOES = re.compile(
    r"EngineDeadError|Engine core initialization failed|Worker failed|WorkerProc initialization failed|"
    r"Engine core proc|ProcessLookupError|CancelledError|See (root|stack)"
)
"""What other processes say of one that failed."""
_ADVICE = (
    (
        re.compile(
            r"out of memory|OutOfMemory|No available memory|KV cache|insufficient memory|derived max_model_len",
            re.IGNORECASE,
        ),
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


_WATCH = """
import os, sys, time

child, parent = map(int, sys.argv[1:])
os.closerange(3, 1 << 16)
while os.getppid() == child:
    try:
        with open(f"/proc/{child}/stat") as file:
            is_alone = int(file.read().rpartition(")")[2].split()[1]) != parent
    except OSError:
        is_alone = False
    if is_alone:
        os.kill(child, 9)
    time.sleep(0.5)
"""
"""Ends a process that has lost its parent, on Linux: an engine of vLLM's outlives one that is killed, with the memory
that it has. Python's tracker of shared memory, which is started in the same way, lives on and cleans up.
"""


class _Aside:
    """A stream that takes what one thread writes elsewhere."""

    def __init__(self, elsewhere: TextIO, stream: TextIO | None) -> None:
        self._elsewhere, self._stream, self._thread = elsewhere, stream, threading.get_ident()

    def write(self, text: str) -> int:
        stream = self._elsewhere if threading.get_ident() == self._thread else self._stream
        return len(text) if stream is None else stream.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream or self._elsewhere, name)


class EngineLog:
    """What one engine says: a file in a folder of its own."""

    def __init__(self, label: str) -> None:
        name = re.sub(r"\W+", "-", label).strip("-")[-60:]
        self._folder = Path(tempfile.mkdtemp(prefix=f"raypipe-engine-{name}-"))
        self.path = self._folder / "engine.log"
        self.path.touch()
        self.settings = self._folder / "logging.json"
        """A configuration for Python's logging, in vLLM's processes."""
        self.settings.write_bytes(orjson.dumps(_settings(self.path)))
        self.program = self._folder / "python"
        """This Python, which prints to the log and ends with the process that starts it."""
        python = quote(sys.executable)
        watch = f"{python} -I -S -c {quote(_WATCH)} $$ $PPID </dev/null >/dev/null 2>&1 &"
        watch = f'case "$*" in *spawn_main*)\n{watch}\nesac'
        self.program.write_text(f'#!/bin/sh\n{watch}\nexec {python} "$@" >>{quote(str(self.path))} 2>&1\n')
        self.program.chmod(0o700)

    @contextmanager
    def listening(self) -> Generator[None]:
        """What this thread prints inside comes here, and for ever what a process prints that is spawned inside."""
        program = spawn.get_executable()
        with self.path.open("a", buffering=1) as file, ExitStack() as stack:
            stack.enter_context(redirect_stdout(cast(Any, _Aside(file, sys.stdout))))
            stack.enter_context(redirect_stderr(cast(Any, _Aside(file, sys.stderr))))
            set_executable(str(self.program))
            try:
                yield
            finally:
                set_executable(program)

    def cause(self, error: BaseException | None = None) -> str:
        """Why it failed, in the words of what failed first; those of `error` where it said nothing."""
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        found = [(place, said) for place, line in enumerate(lines) if (said := _cause_in(line))]
        if found:
            place, said = found[-1]
            more = takewhile(_DETAIL.match, lines[place + 1 :])
            return _short(_COUNTED.sub("", " ".join([said, *(line.partition(" [type=")[0] for line in more)])))
        if error is None:
            return ""
        return _short(f"{type(error).__name__}: {error}")

    def end(self, keep: bool = False) -> None:
        """Remove it, unless it explains a failure."""
        if not keep:
            shutil.rmtree(self._folder, ignore_errors=True)


def _cause_in(line: str) -> str:
    """The error that a line names; empty where it names none, or what others say of it."""
    said = _SAID.search(line.rstrip())
    if said is None or _ECHOES.search(line):
        refused = _REFUSED.match(line)
        return refused[1] if refused else ""
    return f"{said[1]}: {said[2]}"


def _short(text: str) -> str:
    text = " ".join(text.split()).rstrip(".")
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
