"""Watches over what a run on Ray stands on: the head of the cluster, and the node of this process.

Knows nothing of the run. Where the head is gone, Ray waits for a minute and then ends this process without a word;
where it is frozen, or the own node is gone, Ray waits for ever: conductors live on this node alone.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from raypipe.concurrency.background import start_thread
from raypipe.errors import InfrastructureError, RaypipeError

_LOOK_EVERY_S, _ANSWER_S = 2.0, 5.0
_GONE_S = 25.0
"""So long nothing may answer."""


@contextmanager
def watch_head(lost: Callable[[RaypipeError], None]) -> Generator[None]:
    """`lost` is told when the head of the cluster, or the node of this process, is gone or frozen, while inside."""
    context, ended = ray.get_runtime_context(), threading.Event()
    watch = _Watch(context.gcs_address, ray.NodeID.from_hex(context.get_node_id()), ended)
    start_thread(lambda: watch.run(lost), "raypipe-head", lost)
    try:
        yield
    finally:
        ended.set()


@dataclass
class _Watch:
    address: str
    """Of the head."""
    node: ray.NodeID
    """Of this process."""
    ended: threading.Event

    def run(self, lost: Callable[[RaypipeError], None]) -> None:
        silent_s, looked_at = 0.0, time.monotonic()
        while not self.ended.wait(_LOOK_EVERY_S):
            problem = self._problem()
            now = time.monotonic()
            # Of a look for which this process was stopped or starved, no more counts than it may take.
            silent_s = silent_s + min(now - looked_at, _LOOK_EVERY_S + _ANSWER_S) if problem else 0.0
            looked_at = now
            if silent_s > _GONE_S and not self.ended.is_set():
                said = f"{problem}, for {silent_s:.0f} s now; when it is back, run the same command again to go on"
                lost(InfrastructureError(said))
                return

    def _problem(self) -> str:
        """What is wrong; empty where nothing is."""
        head = f"the head of the Ray cluster at {self.address}"
        if not self._listens():
            return f"{head} is gone: nothing listens there"
        try:
            is_alive = _is_alive(self.node)
        except RayError:
            return f"{head} is gone or frozen: it has not answered"
        return (
            "" if is_alive else "the Ray node that this process belongs to is gone, and what carries its rows with it"
        )

    def _listens(self) -> bool:
        host, _, port = self.address.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
        except OSError:
            return False
        return True


def _is_alive(node: ray.NodeID) -> bool:
    """What the head says of a node, within a bound, which no public way of asking has. Raises RayError."""
    from ray._private.worker import global_worker

    client: Any = getattr(global_worker, "gcs_client", None)
    if client is None or not hasattr(client, "check_alive"):
        return True  # Ray is being left, or is one whose client is another: that it listens must do
    return bool(client.check_alive([node], timeout=_ANSWER_S)[0])
