"""I run the chain on a Ray cluster of two nodes on this machine and take the second one down in the middle."""

from __future__ import annotations

import argparse
import threading
import time
import urllib.request
from typing import Any

import orjson
import psutil

from raypipe.execution.ray.session import load

load()

import ray  # noqa: E402 - Ray reads its environment as it is imported
from ray.cluster_utils import Cluster  # noqa: E402

from tests.acceptance.chain import chain, topics  # noqa: E402

REPLICAS = 4


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--after", type=int, required=True, help="Take the node down after so many requests.")
    chosen = parser.parse_args()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    second = cluster.add_node(num_cpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    threading.Thread(target=_kill, args=(cluster, second, chosen.url, chosen.after), daemon=True).start()
    try:
        chain(chosen.url, topics(chosen.rows), replicas=REPLICAS).run(chosen.out, engine="ray")
    finally:
        ray.shutdown()
        cluster.shutdown()


def _kill(cluster: Any, node: Any, url: str, after: int) -> None:
    while orjson.loads(urllib.request.urlopen(url.removesuffix("/v1") + "/log").read())["total"] < after:
        time.sleep(0.02)
    [raylet] = node.all_processes["raylet"]
    lost = [child for child in psutil.Process(raylet.process.pid).children() if "Replica" in " ".join(child.cmdline())]
    cluster.remove_node(node, allow_graceful=False)
    print(f"lost {len(lost)} workers", flush=True)


if __name__ == "__main__":
    main()
