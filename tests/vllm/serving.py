"""Lets three runs on one cluster ask a model whose server they share, kills the server once, and prints what it saw.

python -m tests.vllm.serving FOLDER
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from raypipe.contracts.llm import LLM
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration
from tests.acceptance.processes import await_end, is_working
from tests.vllm.tiny import ENGINE

END_TIMEOUT_S = 60.0
IDLE_S = 8.0
PROGRAM = "raypipe.models.vllm.serving"


def _run(folder: Path, out: str) -> None:
    model, options = folder / "tiny", {"idle_s": IDLE_S}
    llm = LLM(f"vllm-server/{model}", serve=True, engine=ENGINE, options=options, temperature=0, max_tokens=16)
    with Pipeline("served") as pipeline:
        rows = LoadDataFromDicts([{"instruction": f"Say {number}."} for number in range(8)])
        rows >> TextGeneration("ask", llm=llm)
    pipeline.run(folder / out)


def _processes(*words: str) -> list[psutil.Process]:
    """Those that still work whose command line has all of the words."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            command = " ".join(process.cmdline())
            if all(word in command for word in words) and is_working(process):
                found.append(process)
        except psutil.Error:
            continue
    return found


def _servers() -> list[tuple[int, str]]:
    """Process and port of each that was started for the model here."""
    found = [(one.pid, one.cmdline()) for one in _processes(PROGRAM, sys.argv[1])]
    return [(pid, command[-1]) for pid, command in found if "--port" in command]


def main() -> None:
    from raypipe.execution.ray.session import load

    load()

    import ray
    from ray.util import list_named_actors

    def actors() -> list[str]:
        return [one["name"] for one in list_named_actors(all_namespaces=True) if "server" in one["name"]]

    folder, told, orphans = Path(sys.argv[1]), dict[str, Any](), list[psutil.Process]()
    # "local": else it joins whatever cluster was last started on this machine.
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    try:
        for out in ("first", "second", "third"):
            if out == "third":
                server = psutil.Process(_servers()[0][0])
                orphans = [one for one in server.children(recursive=True) if one.name().startswith("VLLM")]
                server.kill()
                server.wait(END_TIMEOUT_S)
            _run(folder, out)
            told[out] = _servers()
        told["orphans"] = {one.pid: is_working(one) for one in orphans}
        servers = _processes(PROGRAM, sys.argv[1])
        left = await_end([*servers, *(child for server in servers for child in server.children(recursive=True))])
        told["left"] = [one.name() for one in left]
        told["actors"], deadline = actors(), time.monotonic() + END_TIMEOUT_S
        while told["actors"] and time.monotonic() < deadline:
            time.sleep(0.1)
            told["actors"] = actors()
    finally:
        ray.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
