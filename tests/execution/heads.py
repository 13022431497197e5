"""Takes away what a run on Ray stands on, prints what is said of it and after how long.

`node`: the node of this process is killed while the head lives. `head`: the head is stopped, as by SIGSTOP.
"""

from __future__ import annotations

import sys
import threading
import time

import psutil


def main(what: str) -> None:
    from raypipe.execution.ray.session import load

    load()

    import ray
    from ray.cluster_utils import Cluster

    from raypipe.errors import RaypipeError
    from raypipe.execution.ray.head import watch_head

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")
    children = psutil.Process().children(recursive=True)
    heard, said = threading.Event(), list[RaypipeError]()

    def note(error: RaypipeError) -> None:
        said.append(error)
        heard.set()

    try:
        with watch_head(note):
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
            one.kill()
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
