"""Takes away what a run on Ray stands on, prints what is said of it and after how long.

`node`: the node of this process is killed while the head lives. `head`: the head is stopped, as by SIGSTOP.
What is shipped waits longer: tests/execution/ray/test_head.py holds those bounds to the minute that is promised.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from contextlib import suppress

import psutil

GONE_S = 8.0
"""For so long nothing may answer here."""
LOOKS_OF_RAY = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500}
"""Ray looks whether a node lives more often; what it allows for one answer stays."""


def main(what: str) -> None:
    from raypipe.execution.ray.session import load

    load()

    import ray
    from ray.cluster_utils import Cluster

    from raypipe.errors import RaypipeError
    from raypipe.execution.ray import head

    setattr(head, "_GONE_S", GONE_S)  # noqa: B010 - private to its module
    of_head = {"num_cpus": 1, "include_dashboard": False, "_system_config": LOOKS_OF_RAY}
    cluster = Cluster(initialize_head=True, head_node_args=of_head)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    children = psutil.Process().children(recursive=True)
    heard, said = threading.Event(), list[RaypipeError]()

    def note(error: RaypipeError) -> None:
        said.append(error)
        heard.set()

    try:
        with head.watch_head(note):
            was_quiet = not heard.wait(5.0)
            began = time.monotonic()
            if what == "node":
                cluster.head_node.kill_raylet(check_alive=False)
            else:
                next(one for one in children if "gcs_server" in one.name()).suspend()
            heard.wait(80.0)
        print(was_quiet, round(time.monotonic() - began), *said, sep="|", flush=True)
    finally:
        for one in children:
            with suppress(psutil.Error):
                one.kill()
    os._exit(0)  # Ray would wait for minutes for what was killed


if __name__ == "__main__":
    main(sys.argv[1])
