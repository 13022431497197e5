"""Places replicas on nodes that have two GPUs each, and prints where they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from raypipe.contracts.llm import LLM
from raypipe.execution.context import RunContext, RunOptions
from raypipe.execution.worker.replica import ReplicaSetup
from raypipe.pipeline import Pipeline
from raypipe.steps import LoadDataFromDicts, TextGeneration


def _setup(gpus: float, **engine: Any) -> ReplicaSetup:
    llm = LLM("vllm/org/model", gpus=gpus, engine=engine)
    with Pipeline("spread") as pipeline:
        LoadDataFromDicts([{"instruction": "a"}]) >> TextGeneration("ask", llm=llm)
    [pool] = [one for one in pipeline.plan().pools.values() if one.llm is not None]
    return ReplicaSetup("w", pool, {}, RunContext(RunOptions(Path("out")), Path("parts"), Path("calls"), "owner"))


def main() -> None:
    from raypipe.execution.ray.session import load

    load()

    import ray
    from ray.cluster_utils import Cluster
    from ray.util import placement_group_table, remove_placement_group

    from raypipe.execution.ray.replicas import choose_places

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "num_gpus": 0, "include_dashboard": False})
    for _ in range(2):
        cluster.add_node(num_cpus=2, num_gpus=2)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="CRITICAL")

    def node() -> str:
        return ray.get_runtime_context().get_node_id()

    told: dict[str, Any] = {}
    try:
        group, whole, forced = choose_places([_setup(3), _setup(2), _setup(2, distributed_executor_backend="ray")])
        told["whole"] = whole
        told["forced"] = [bundle for bundle in forced.placement_group.bundle_specs]
        remove_placement_group(forced.placement_group)
        lives = ray.get(ray.remote(node).options(num_cpus=0, scheduling_strategy=group).remote(), timeout=60)
        nodes = placement_group_table(group.placement_group)["bundles_to_node_id"]
        told |= {"nodes": len(set(nodes.values())), "bundles": len(nodes), "is_first": nodes[0] == lives}
        remove_placement_group(group.placement_group)
        told["left"] = [one["state"] for one in placement_group_table().values() if one["state"] != "REMOVED"]
    finally:
        ray.shutdown()
        cluster.shutdown()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
