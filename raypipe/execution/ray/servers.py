"""Keeps vLLM servers on a cluster that runs share: found by model and options, ended when no run uses them any more.

Each is an actor that no run owns. The first run that asks for a server starts it; every run says again and again that
it goes on, so that one which dies without a word is forgotten, too.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raypipe.concurrency.background import start_thread
from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError, RaypipeError
from raypipe.execution.ray.nodes import list_cpu_nodes
from raypipe.execution.ray.pools import unwrap_error
from raypipe.execution.ray.replicas import end_with_node
from raypipe.models import engine_gpus
from raypipe.models.presets import ServedOptions
from raypipe.models.vllm.serving import Server

NAMESPACE = "raypipe"
"""Of Ray's, where the servers of all runs are found."""
_KEEP_EVERY_S, _LOOK_EVERY_S = 5.0, 0.5
_SILENCE_S = 60.0
"""How long nothing may be heard of a run before it counts as gone."""
_MOST_RESTARTS = 5
_TELL_S = 10.0
"""How long one that could not be loaded stays to say why."""
_STARTS_S = 60.0
_MOST_LOST = 20
"""Times in a row that a server's actor is gone before it has said a word."""
_LEAVE_TIMEOUT_S, _CLOSE_TIMEOUT_S = 5.0, 20.0
_ANSWER_S = 60.0
"""How long an answer may take that is there already."""


class ServerActor:
    """A server in an actor of its own, which ends by itself."""

    def __init__(self, llm: LLM, name: str) -> None:
        end_with_node()
        self._llm, self._name = llm, name
        self._lock = threading.Lock()
        self._heard: dict[str, float] = {}
        """When each run that uses it was heard of."""
        self._until = 0.0
        self._base_url = ""
        self._problem: InfrastructureError | None = None
        self._is_ending = False
        self._closed = threading.Event()
        start_thread(self._work, "server", None)  # whatever ends it ends the process

    def keep(self, run: str, idle_s: float) -> str | None:
        """A run uses it, and wants it to stay for so many seconds afterwards.

        Its address, empty until it answers; `None` when it ends and another is to be asked for. Raises
        InfrastructureError with the server's own words when it cannot be loaded.
        """
        with self._lock:
            if self._problem is not None:
                raise self._problem
            if self._is_ending:
                return None
            now = time.monotonic()
            self._heard[run] = now
            self._until = max(self._until, now + idle_s)
            return self._base_url

    def leave(self, run: str) -> None:
        """A run uses it no more."""
        with self._lock:
            self._heard.pop(run, None)

    def await_end(self) -> None:
        """Come back when it has ended, or after a while: whoever asks waits no longer."""
        self._closed.wait(_CLOSE_TIMEOUT_S)

    def _work(self) -> None:
        """From the first run that asks to its end."""
        server: Server | None = None
        try:
            if self._is_asked_for():
                server = Server(self._llm, ray.util.get_node_ip_address())
                self._serve(server)
        except (InfrastructureError, OSError) as error:
            said = f"model {self._llm.label!r} cannot be served: {error}"
            self._problem = error if isinstance(error, InfrastructureError) else InfrastructureError(said)
        finally:
            self._is_ending = True
            if server is not None:
                server.close(keep=self._problem is not None)
            self._closed.set()
            time.sleep(_TELL_S if self._problem is not None else _LOOK_EVERY_S)
            with suppress(ValueError):
                ray.kill(ray.get_actor(self._name, NAMESPACE))
            time.sleep(_TELL_S)
            os._exit(1)

    def _is_asked_for(self) -> bool:
        """Whether the run that has made it is still there, which may have waited long for its place."""
        deadline = time.monotonic() + _SILENCE_S
        while not self._heard and time.monotonic() < deadline:
            time.sleep(_LOOK_EVERY_S)
        return bool(self._heard)

    def _serve(self, server: Server) -> None:
        """Load it, and start it again when it has died, as long as a run uses it."""
        server.load(self._is_wanted)
        self._base_url = server.base_url
        restarts = 0
        while self._is_wanted():
            if not server.is_alive:
                self._base_url = ""
                restarts += 1
                if restarts > _MOST_RESTARTS:
                    raise InfrastructureError(f"the server of model {self._llm.label!r} died {restarts} times")
                with suppress(InfrastructureError):
                    server.load(self._is_wanted)
                    self._base_url = server.base_url
            time.sleep(_LOOK_EVERY_S)

    def _is_wanted(self) -> bool:
        """Whether a run uses it; once none does, none can begin to."""
        with self._lock:
            now = time.monotonic()
            is_used = any(now - heard < _SILENCE_S for heard in self._heard.values())
            self._is_ending = not is_used and now >= self._until
            return not self._is_ending


@contextmanager
def hold_servers(
    models: Iterable[LLM], run: str, is_own_ray: bool, is_stopped: Callable[[], bool]
) -> Generator[Mapping[str, str]]:
    """The addresses of the servers that models are to be asked at, by their keys; they stay as long as this is open.

    Those that are not there are started, all at once. Nothing is told when the run is stopped meanwhile. On a Ray of
    this run's own they end with it. Raises InfrastructureError when one cannot be started.
    """
    kept = [_HeldServer(llm, run, 0.0 if is_own_ray else None) for llm in models if llm.serve]
    kept = list({one.key: one for one in sorted(kept, key=lambda one: one.idle_s)}.values())
    if not kept:
        yield {}
        return
    ended = threading.Event()

    def keep() -> None:
        while not ended.wait(_KEEP_EVERY_S):
            for one in kept:
                with suppress(RayError):  # the next one may get through
                    one.keep()

    keeper = start_thread(keep, "what keeps the servers", _warn)
    try:
        for one in kept:
            one.ask()
        found = {one.key: one.base_url(is_stopped) for one in kept}
        yield {key: address for key, address in found.items() if address}
    finally:
        ended.set()
        keeper.join(_LEAVE_TIMEOUT_S)
        for one in kept:
            one.leave(is_own_ray)


def _warn(error: RaypipeError) -> None:
    """Servers that are not kept end some time after; calls that get no answer then say so."""
    logging.getLogger("raypipe").warning("%s; the servers of this run end soon", error)


class _HeldServer:
    """A server that one run uses."""

    def __init__(self, llm: LLM, run: str, idle_s: float | None) -> None:
        options = ServedOptions(**llm.options)
        self.key, self._llm, self._run = llm.server_key, llm, run
        self.idle_s = options.idle_s if idle_s is None else idle_s
        self._timeout_s = options.load_timeout_s + _STARTS_S
        self._actor: Any = None
        self._asked: Any = None
        self._is_there = False
        self._lost = 0

    def ask(self) -> None:
        """Say that it is wanted, to one that is there or to a new one."""
        with suppress(ValueError):  # one of this name has just gone
            self._actor = _actor(self._llm)
        self._asked = self.keep()

    def keep(self) -> Any:
        return None if self._actor is None else self._actor.keep.remote(self._run, self.idle_s)

    def base_url(self, is_stopped: Callable[[], bool]) -> str:
        """Its address, once it answers; empty when the run is stopped before."""
        deadline = time.monotonic() + self._timeout_s
        while not is_stopped():
            if address := self._answer():
                return address
            if time.monotonic() > deadline:
                problem = f"its server was not ready within {self._timeout_s:g} s"
                way = f"see that a node has {engine_gpus(self._llm):g} GPUs free for it, or raise load_timeout_s"
                raise InfrastructureError(f"model {self._llm.label!r} cannot be served: {problem}; {way}")
            time.sleep(_LOOK_EVERY_S)
        return ""

    def _answer(self) -> str:
        """What it says; empty where it says nothing yet, and is asked again."""
        if self._asked is None:
            self.ask()
            return ""
        if not ray.wait([self._asked], timeout=_LOOK_EVERY_S)[0]:
            return ""
        address: str | None = None
        try:
            address = ray.get(self._asked, timeout=_ANSWER_S)
            self._is_there, self._lost = True, 0
        except RayTaskError as error:
            self._is_there = True
            raise unwrap_error(error) from None
        except RayActorError as error:
            self._lost += 1
            if self._lost > _MOST_LOST:
                said = str(error).strip().splitlines()[0]
                raise InfrastructureError(f"model {self._llm.label!r} cannot be served: {said}") from None
        self._asked = None if address is None else self.keep()
        return address or ""

    def leave(self, is_own_ray: bool) -> None:
        """This run uses it no more; one that has not been given its place is not to come any more."""
        if self._actor is None:
            return
        if not self._is_there and self._asked is not None and not ray.wait([self._asked], timeout=0)[0]:
            ray.kill(self._actor)
            return
        waited = [self._actor.leave.remote(self._run)]
        if is_own_ray:
            waited.append(self._actor.await_end.remote())
        timeout_s = _CLOSE_TIMEOUT_S if is_own_ray else _LEAVE_TIMEOUT_S
        ray.wait(waited, num_returns=len(waited), timeout=timeout_s)


def _actor(llm: LLM) -> Any:
    name, gpus = f"server-{llm.server_key}", engine_gpus(llm)
    nodes = sorted(list_cpu_nodes())
    place: Any = "DEFAULT"
    if nodes and not gpus:
        place = NodeAffinitySchedulingStrategy(nodes[int(llm.server_key[:8], 16) % len(nodes)], soft=True)
    options = {"num_cpus": 0, "num_gpus": gpus, "max_concurrency": 64, "scheduling_strategy": place}
    shared = {"name": name, "namespace": NAMESPACE, "lifetime": "detached", "get_if_exists": True, "max_restarts": 0}
    return ray.remote(ServerActor).options(**options, **shared).remote(llm, name)
