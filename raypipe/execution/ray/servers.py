"""I keep vLLM servers on a cluster that runs share: found by model and options, ended when no run uses them any more.

Each is an actor that no run owns. The first run that asks for a server starts it; every run says again and again that
it goes on, so that one which dies without a word is forgotten, too.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.chat import LLM
from raypipe.errors import InfrastructureError
from raypipe.execution.ray.nodes import nodes_at_work
from raypipe.execution.ray.pools import unwrapped
from raypipe.execution.ray.replicas import end_with_node
from raypipe.models import engine_gpus
from raypipe.models.presets import ServedOptions
from raypipe.models.vllm.serving import Server

NAMESPACE = "raypipe"
"""Of Ray's, where the servers of all runs are found."""
_KEEP_EVERY_S, _LOOK_EVERY_S = 5.0, 1.0
_SILENCE_S = 60.0
"""How long nothing may be heard of a run before it counts as gone."""
_MOST_RESTARTS = 5
_TRIES = 3
_WAIT_S = 0.5
_STARTS_S = 60.0
_LEAVE_TIMEOUT_S = 5.0


class ServerActor:
    """A server in an actor of its own, which ends by itself."""

    def __init__(self, llm: LLM, name: str) -> None:
        end_with_node()
        self._name = name
        self._server = Server(llm, ray.util.get_node_ip_address())
        self._loading: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._heard: dict[str, float] = {}
        """When each run that uses it was heard of."""
        self._until = 0.0
        self._restarts = 0
        self._is_ending = False

    async def base_url(self) -> str:
        """Its address, once it answers. Raises InfrastructureError with the server's own words."""
        if self._is_ending:
            await asyncio.Event().wait()  # whoever asks learns that it is gone, and asks for a new one
        await self._loaded()
        if self._watching is None:
            self._watching = asyncio.create_task(self._watch())
        return self._server.base_url

    async def _loaded(self) -> None:
        """It is there, for the first time or again."""
        if self._loading is None or (self._loading.done() and not self._server.is_alive):
            self._loading = asyncio.create_task(asyncio.to_thread(self._server.load))
        await asyncio.shield(self._loading)

    async def keep(self, run: str, idle_s: float) -> None:
        """A run uses it, and wants it to stay for so many seconds afterwards."""
        now = time.monotonic()
        self._heard[run] = now
        self._until = max(self._until, now + idle_s)

    async def leave(self, run: str) -> None:
        """A run uses it no more."""
        self._heard.pop(run, None)

    async def _watch(self) -> None:
        """Start it again when it has died, and end when no run uses it."""
        while self._is_wanted() and self._restarts <= _MOST_RESTARTS:
            if not self._server.is_alive:
                self._restarts += 1
                with suppress(InfrastructureError):
                    await self._loaded()
            await asyncio.sleep(_LOOK_EVERY_S)
        self._is_ending = True
        await asyncio.to_thread(self._server.close)
        ray.kill(ray.get_actor(self._name, NAMESPACE))

    def _is_wanted(self) -> bool:
        now = time.monotonic()
        return now < self._until or any(now - heard < _SILENCE_S for heard in self._heard.values())


@contextmanager
def kept_servers(models: Iterable[LLM], run: str, is_stopped: Callable[[], bool]) -> Generator[Mapping[str, str]]:
    """The addresses of the servers that models are to be asked at, by their keys; they stay as long as this is open.

    Those that are not there are started, all at once. Nothing is told when the run is stopped meanwhile. Raises
    InfrastructureError when one cannot be started.
    """
    wanted = {llm.server_key: llm for llm in models if llm.serve}
    if not wanted:
        yield {}
        return
    kept, ended = _Kept(run), threading.Event()
    for llm in wanted.values():
        kept.ask(llm)
    keeper = threading.Thread(target=kept.work, args=(ended,), name="servers", daemon=True)
    keeper.start()
    try:
        found = {key: kept.base_url(llm, is_stopped) for key, llm in wanted.items()}
        yield {key: address for key, address in found.items() if address}
    finally:
        ended.set()
        keeper.join()
        kept.leave()


class _Kept:
    """The servers that one run uses."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._actors: dict[str, Any] = {}
        self._idle_s: dict[str, float] = {}

    def ask(self, llm: LLM) -> Any:
        """The server's actor, new or as another run has started it."""
        key = llm.server_key
        self._idle_s[key] = ServedOptions(**llm.options).idle_s
        self._actors[key] = actor = _actor(llm)
        self._keep(key)
        return actor

    def _keep(self, key: str) -> None:
        self._actors[key].keep.remote(self._run, self._idle_s[key])

    def work(self, ended: threading.Event) -> None:
        while not ended.wait(_KEEP_EVERY_S):
            for key in list(self._actors):
                self._keep(key)

    def base_url(self, llm: LLM, is_stopped: Callable[[], bool]) -> str:
        """The server's address; empty when the run is stopped before it is known."""
        actor = self._actors[llm.server_key]
        for last in reversed(range(_TRIES)):
            try:
                return _told(actor.base_url.remote(), llm, is_stopped)
            except RayTaskError as error:
                ray.kill(actor)
                raise unwrapped(error) from None
            except RayActorError as error:
                # It ended as nobody used it, at the moment when we asked.
                if not last:
                    said = str(error).strip().splitlines()[0]
                    raise InfrastructureError(f"the server of model {llm.label!r} is gone: {said}") from None
                actor = self.ask(llm)
        raise AssertionError("the last try returns or raises")

    def leave(self) -> None:
        left = [actor.leave.remote(self._run) for actor in self._actors.values()]
        ray.wait(left, num_returns=len(left), timeout=_LEAVE_TIMEOUT_S)


def _told(address: Any, llm: LLM, is_stopped: Callable[[], bool]) -> str:
    timeout_s = ServedOptions(**llm.options).load_timeout_s + _STARTS_S
    deadline = time.monotonic() + timeout_s
    while not is_stopped():
        if ray.wait([address], timeout=_WAIT_S)[0]:
            return ray.get(address)
        if time.monotonic() > deadline:
            problem = f"model {llm.label!r} cannot be served: its server was not ready within {timeout_s:g} s"
            raise InfrastructureError(f"{problem}; see that a node has {engine_gpus(llm):g} GPUs free for it")
    return ""


def _actor(llm: LLM) -> Any:
    name = f"server-{llm.server_key}"
    nodes = nodes_at_work()
    place: Any = "DEFAULT"
    if not engine_gpus(llm) and nodes:
        own = ray.get_runtime_context().get_node_id()
        place = NodeAffinitySchedulingStrategy(min(nodes, key=lambda node: (node == own, node)), soft=True)
    options = {"num_cpus": 0, "num_gpus": engine_gpus(llm), "max_concurrency": 64, "scheduling_strategy": place}
    shared = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "max_restarts": 0}
    return ray.remote(ServerActor).options(**options, **shared).remote(llm, name)
