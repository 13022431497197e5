"""Starts vLLM's own server for one model, in a process that ends with this one; says where it is and why it died.

Knows nothing of who asks the server, nor for how long.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from multiprocessing.spawn import set_executable
from pathlib import Path
from runpy import run_module
from typing import Any

import orjson
import psutil

from raypipe.concurrency.background import start_thread
from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError
from raypipe.models.presets import ServedOptions
from raypipe.models.vllm.engine import ENVIRONMENT, READY_TIMEOUT
from raypipe.models.vllm.engine_log import EngineLog, advice
from raypipe.models.vllm.options import INSTALL, engine_options, missing_engine

_PROGRAM = "vllm.entrypoints.openai.api_server"
"""It is there in vLLM's builds for CPUs, too, whose `vllm serve` does not find its own version."""
_LOOK_EVERY_S = 0.5
_END_TIMEOUT_S = 10.0


class Server:
    """vLLM's server for one model; it keeps its port when it is started again."""

    def __init__(self, llm: LLM, host: str) -> None:
        """`host`: an address of this machine to listen at. Raises InfrastructureError where vLLM is not there."""
        if missing_engine(llm):
            raise InfrastructureError(f"model {llm.label!r} is to be served by vLLM, which is not there; {INSTALL}")
        self._label = llm.label
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
            self._host, self._port = host, probe.getsockname()[1]
        self._options = engine_options(llm)
        self._load_timeout_s = ServedOptions(**llm.options).load_timeout_s
        self._log = EngineLog(llm.label)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def base_url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}/v1"

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def load(self, is_wanted: Callable[[], bool]) -> None:
        """Start it and wait until it answers, or is not wanted. Raises InfrastructureError with its own words."""
        self._start()
        deadline = time.monotonic() + self._load_timeout_s
        while self.is_alive and time.monotonic() < deadline:
            if not is_wanted():
                return
            # It takes connections once the engine is loaded, not before.
            with suppress(OSError):
                socket.create_connection((self._host, self._port), _LOOK_EVERY_S).close()
                return
            time.sleep(_LOOK_EVERY_S)
        problem = self._problem()
        self.close(keep=True)
        raise InfrastructureError(problem)

    def _problem(self) -> str:
        if self.is_alive:
            why = f"it was not ready within {self._load_timeout_s:g} s; raise load_timeout_s in its `options`"
        else:
            said = self._log.cause() or f"it ended with exit code {self._process and self._process.returncode}"
            why = said + advice(said)
        where = f"{self._log.path} on {socket.gethostname()}"
        return f"model {self._label!r} cannot be served: {why}; its log is {where}"

    def _start(self) -> None:
        command = [
            sys.executable,
            "-m",
            __name__,
            str(os.getpid()),
            str(self._log.program),
            *command_line(self._options),
        ]
        command += ["--disable-uvicorn-access-log", "--host", self._host, "--port", str(self._port)]
        home = str(Path(__file__).parents[3])
        paths = os.pathsep.join([*filter(None, [os.environ.get("PYTHONPATH")]), home])
        ready = {READY_TIMEOUT: str(round(self._load_timeout_s))}
        with self._log.path.open("ab") as file:
            self._process = subprocess.Popen(
                command,
                env=ENVIRONMENT | ready | os.environ | {"PYTHONPATH": paths, "PYTHONSAFEPATH": "1"},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )

    def close(self, keep: bool = False) -> None:
        """End it and the processes of its engine; its log is kept where that explains a failure."""
        if self._process is not None:
            _end(psutil.Process(self._process.pid) if self.is_alive else None)
            self._process.wait()
        self._log.end(keep=keep)


def _end(process: psutil.Process | None) -> None:
    """Ask it to end, and see that it does, with all that it has started."""
    if process is None:
        return
    with suppress(psutil.Error):
        all_of_it = [process, *process.children(recursive=True)]
        process.terminate()
        _, left = psutil.wait_procs(all_of_it, timeout=_END_TIMEOUT_S)
        for one in left:
            with suppress(psutil.Error):
                one.kill()


def command_line(options: Mapping[str, Any]) -> list[str]:
    """Options of the engine as the server's command line takes them."""
    flags: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        elif isinstance(value, list | tuple):
            flags += [f"--{flag}", *map(_text, value)] if value else []
        elif value is not None:
            flags += [f"--{flag}", _text(value)]
    return flags


def _text(value: Any) -> str:
    return orjson.dumps(value).decode() if isinstance(value, Mapping | list | tuple) else str(value)


def _end_with(parent: int) -> None:
    """Watch, in a thread, the process that started this one."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_END_TIMEOUT_S)
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                child.kill()
        os._exit(1)

    start_thread(watch, "parent", None)


def main() -> None:
    """vLLM's server, in a process that does not outlive the one that is named first.

    Its engine, which does not outlive the server, is started by the Python that is named second.
    """
    _end_with(int(sys.argv.pop(1)))
    set_executable(sys.argv.pop(1))
    run_module(_PROGRAM, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
