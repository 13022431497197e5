"""A Ray cluster of several nodes on this machine, in a process of its own that takes orders.

    python -m tests.acceptance.cluster FOLDER

It begins with a head that has no CPUs. Each line of standard input is one order: `join` adds a node with 2 CPUs, `lose`
takes the oldest one away, at once, `count` counts the workers of runs on each. The answer is one line of JSON; the
first stands for the cluster itself. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
TOKEN = "token-of-the-cluster-of-a-test-0123456789abcdef"


@dataclass
class RunningCluster:
    """A cluster as a test sees it."""

    process: subprocess.Popen[str]
    address: str
    jobs: str
    """Address of its job server."""
    folder: Path
    """Where Ray keeps its logs, each node in a folder of its own."""
    environment: dict[str, str]
    """Of a process that may use it, with nothing in it that the nodes have."""

    def order(self, word: str) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def raypipe(self, *arguments: object, **options: Any) -> subprocess.Popen[str]:
        """The command, started."""
        return subprocess.Popen(
            [sys.executable, "-m", "raypipe.cli", *(str(each) for each in arguments)],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            **options,
        )

    def said(self, *arguments: object, code: int = 0, **options: Any) -> str:
        """What the command says, to its end."""
        process = self.raypipe(*arguments, **options)
        said, _ = process.communicate(timeout=300)
        assert process.returncode == code, said
        return said


@contextmanager
def running_cluster(**environment: str) -> Iterator[RunningCluster]:
    """A cluster without workers; `environment` is what its nodes find in their own."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    asking = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "RAY_AUTH_TOKEN": TOKEN}
    folder = tempfile.mkdtemp(prefix="rp", dir="/tmp")  # paths of sockets have to be short
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.cluster", folder],
        cwd=ROOT,
        env={**asking, "RAY_AUTH_MODE": "token", **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        told = json.loads(process.stdout.readline())
        yield RunningCluster(process, told["address"], told["jobs"], Path(folder), asking)
    finally:
        process.stdin.close()
        process.wait(timeout=60)
        process.stdout.close()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    from raypipe.execution.ray.session import load

    load()
    from ray.cluster_utils import Cluster

    # In one folder, each node that needs what came with a job takes it from under the others.
    folders = (os.path.join(sys.argv[1], str(number)) for number in count())
    ports = {"dashboard_port": 0, "dashboard_agent_listen_port": 0}
    of_head = {"num_cpus": 0, "include_dashboard": True, "temp_dir": next(folders), **ports}
    cluster = Cluster(initialize_head=True, head_node_args=of_head)
    head: Any = cluster.head_node
    workers: list[Any] = []
    try:
        _tell({"address": cluster.address, "jobs": f"http://{head.webui_url}"})
        for order in map(str.strip, sys.stdin):
            if order == "join":
                workers.append(cluster.add_node(num_cpus=2, temp_dir=next(folders)))
                _tell(workers[-1].node_id)
            if order == "lose":
                node = workers.pop(0)
                lost = len(_replicas_of(node))
                cluster.remove_node(node, allow_graceful=False)
                _tell(lost)
            if order == "count":
                _tell([len(_replicas_of(node)) for node in (head, *workers)])
    finally:
        cluster.shutdown()


def _replicas_of(node: Any) -> list[psutil.Process]:
    [raylet] = node.all_processes["raylet"]
    return [child for child in psutil.Process(raylet.process.pid).children() if _is_replica(child)]


def _is_replica(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return "Replica" in " ".join(process.cmdline())
    return False


def _tell(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
