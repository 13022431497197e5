"""Runs one engine of vLLM in this process: requests in, outputs out, and the cause when it dies.

Its own code is the only one that uses vLLM's classes; `options` reads vLLM's source, `serving` runs its server. What
the engine and its processes print goes to a file, from which the line is taken that explains a failure. Knows nothing
of what a request is for.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import AsyncGenerator, Generator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from importlib import import_module
from itertools import count
from types import ModuleType
from typing import Any

from raypipe.contracts.llm import LLM
from raypipe.contracts.model import EngineFigures
from raypipe.errors import CallError, InfrastructureError, ReplicaLostError, Retry
from raypipe.models.vllm.devices import Devices, claimed
from raypipe.models.vllm.engine_log import EngineLog, advice
from raypipe.models.vllm.options import INSTALL, VLLMOptions, engine_options, missing_engine, version_problem

_LOADING = threading.Lock()
"""While an engine is loaded, its processes inherit what this one has: only one at a time."""
_LOGGING = "VLLM_LOGGING_CONFIG_PATH"
READY_TIMEOUT = "VLLM_ENGINE_READY_TIMEOUT_S"
ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    # A fork of a process with threads may hang; vLLM itself spawns wherever a GPU was touched or Ray is up.
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",
    "TOKENIZERS_PARALLELISM": "false",
}


class _Meter:
    """What the engine reported last; what it counts is summed, its peaks are kept."""

    figures = EngineFigures()

    def note(self, stats: Any) -> None:
        before, cache = self.figures, stats.prefix_cache_stats
        running, usage = stats.num_running_reqs, max(0.0, stats.kv_cache_usage)
        self.figures = replace(
            before,
            running=running,
            waiting=stats.num_waiting_reqs,
            kv_cache_usage=usage,
            most_running=max(before.most_running, running),
            most_kv_cache_usage=max(before.most_kv_cache_usage, usage),
            prefix_queries=before.prefix_queries + cache.queries,
            prefix_hits=before.prefix_hits + cache.hits,
        )


class Engine:
    """A loaded engine. Made in any thread, used inside one event loop."""

    def __init__(self, llm: LLM) -> None:
        """Load the model; takes seconds to minutes. Raises InfrastructureError with the engine's own words."""
        self.label = llm.label
        self._numbers = count()
        self._adapters: dict[str, int] = {}
        self._meter = _Meter()
        self._log = EngineLog(llm.label)
        self._devices: Devices | None = None
        options = VLLMOptions(**llm.options)
        try:
            with _LOADING, _isolate(self._log, options.load_timeout_s):
                self._devices = claimed(llm)
                began = time.monotonic()
                self._load(llm)
                self._meter.figures = replace(self._meter.figures, load_s=time.monotonic() - began)
        except ImportError as error:
            self._give_back()
            way_out = f"; {INSTALL}" if missing_engine(llm) else version_problem()
            raise InfrastructureError(f"model {llm.label!r} needs vLLM ({error}){way_out}") from None
        except Exception as error:  # noqa: BLE001 - vLLM raises whatever kept it from loading
            self._give_back()
            said = self._log.cause(error)
            said += version_problem() if isinstance(error, AttributeError | TypeError) else advice(said)
            problem = f"model {self.label!r} cannot be loaded: {said}"
            raise InfrastructureError(f"{problem}; its log is {self._log.path}") from None

    def _load(self, llm: LLM) -> None:
        vllm, core = import_module("vllm"), import_module("vllm.v1.engine.async_llm")
        arguments = vllm.AsyncEngineArgs(**engine_options(llm), disable_log_stats=True)
        assert self._devices is not None
        with self._devices.visible():
            self._engine: Any = core.AsyncLLM.from_engine_args(arguments, stat_loggers=[self._listener()])
        # What the scheduler reports is enough: nobody here reads figures of each request.
        self._engine.log_stats = False
        self._parameters: Any = import_module("vllm.sampling_params")
        self._pooling: Any = import_module("vllm.pooling_params").PoolingParams
        self._chat: Any = import_module("vllm.renderers.params").ChatParams
        self._lora_request: Any = import_module("vllm.lora.request").LoRARequest
        self._dead: type[Exception] = import_module("vllm.v1.engine.exceptions").EngineDeadError
        self._refused: type[Exception] = import_module("vllm.exceptions").VLLMClientError
        self.defaults: Mapping[str, Any] = self._engine.model_config.get_diff_sampling_param()

    def _listener(self) -> type[Any]:
        """What the engine reports to; it can be made only once vLLM is there.

        It takes the place of vLLM's own report to Prometheus, with which two CPUs gave a tenth fewer tokens a
        second.
        """
        base, meter = import_module("vllm.v1.metrics.loggers").PrometheusStatLogger, self._meter

        class Listener(base):
            def __init__(self, *_: Any, **__: Any) -> None: ...

            def record(self, scheduler_stats: Any, iteration_stats: Any, *_: Any, **__: Any) -> None:
                if scheduler_stats is not None:
                    meter.note(scheduler_stats)

            log_engine_initialized = log = record_sleep_state = __init__

        return Listener

    @property
    def figures(self) -> EngineFigures:
        """How the engine is doing."""
        return self._meter.figures

    async def rendered(self, messages: list[Any], template: str | None, told: Mapping[str, Any]) -> Any:
        """A conversation as the engine takes it: the model's chat template, and its tokens."""
        parameters = self._chat(chat_template=template, chat_template_kwargs=dict(told))
        with self._translate_errors():
            _, [prompt] = await self._engine.renderer.render_chat_async([messages], parameters)
        return prompt

    async def tokenized(self, text: str, is_begun: bool) -> Any:
        """A text as the engine takes it; `is_begun`: it says itself how a text begins."""
        renderer = self._engine.renderer
        parameters = renderer.default_cmpl_tok_params
        if is_begun:
            parameters = import_module("dataclasses").replace(parameters, add_special_tokens=False)
        with self._translate_errors():
            [prompt] = await renderer.render_cmpl_async([{"prompt": text}], parameters)
        return prompt

    async def generated(self, prompt: Any, sampling: Mapping[str, Any], lora: str | None) -> Any:
        """The one output of vLLM's for a prompt. Raises CallError, or ReplicaLostError when the engine is dead."""
        fields = dict(sampling)
        structured = fields.pop("structured_outputs", None)
        with self._translate_errors():
            if structured is not None:
                fields["structured_outputs"] = self._parameters.StructuredOutputsParams(**structured)
            parameters = self._parameters.SamplingParams(
                **fields, output_kind=self._parameters.RequestOutputKind.FINAL_ONLY
            )
            outputs = self._engine.generate(prompt, parameters, str(next(self._numbers)), lora_request=self._lora(lora))
            return await _last(outputs)

    async def pooled(self, prompt: Any, task: str, fields: Mapping[str, Any], lora: str | None) -> Any:
        """The one output of a pooling model. Raises as `generated`."""
        with self._translate_errors():
            parameters = self._pooling(task=task, **fields)
            outputs = self._engine.encode(prompt, parameters, str(next(self._numbers)), lora_request=self._lora(lora))
            return await _last(outputs)

    async def tasks(self) -> tuple[str, ...]:
        """What the model can do, in vLLM's words: `generate`, `embed`, `classify`, `token_classify` and others."""
        with self._translate_errors():
            return tuple(sorted(await self._engine.get_supported_tasks()))

    async def adapt(self, folder: str) -> None:
        """Load a LoRA adapter. Raises InfrastructureError with the engine's own words."""
        try:
            await self._engine.add_lora(self._lora(folder))
        except Exception as error:  # noqa: BLE001 - vLLM raises whatever kept it from loading
            said = self._log.cause(error)
            problem = f"model {self.label!r} cannot load the LoRA adapter in {folder!r}: {said}"
            raise InfrastructureError(f"{problem}; its log is {self._log.path}") from None

    def _lora(self, folder: str | None) -> Any:
        """An adapter is known to the engine by a number of its own."""
        if folder is None:
            return None
        number = self._adapters.setdefault(folder, len(self._adapters) + 1)
        return self._lora_request(folder, number, folder)

    @contextmanager
    def _translate_errors(self) -> Generator[None]:
        """vLLM's errors inside become ours."""
        try:
            yield
        except AttributeError as error:
            if not version_problem():
                raise
            raise InfrastructureError(f"model {self.label!r} cannot be asked ({error}){version_problem()}") from None
        except self._dead:
            raise self._lost() from None
        except (self._refused, ValueError, TypeError, NotImplementedError) as error:
            if self._engine.errored:
                raise self._lost() from None
            raise CallError(f"model {self.label!r} refused: {error}", "rejected", Retry.NEVER) from None
        except RuntimeError as error:
            if self._engine.errored:
                raise self._lost() from None
            said = f"{type(error.__cause__ or error).__name__}: {error.__cause__ or error}"
            raise CallError(f"model {self.label!r} failed: {said}", "engine", Retry.LATER) from None

    def _lost(self) -> ReplicaLostError:
        said = self._log.cause()
        problem = f"the engine of model {self.label!r} died" + (f": {said}{advice(said)}" if said else "")
        return ReplicaLostError(f"{problem}; its log is {self._log.path}")

    def close(self) -> None:
        """End the engine and its processes."""
        is_dead = self._engine.errored
        with suppress(Exception):  # one that is dead has nothing more to say
            self._engine.shutdown(timeout=0)
        del self._engine  # it shuts down once more when it is dropped: not at the end of the program
        self._give_back()
        self._log.end(keep=is_dead)

    def _give_back(self) -> None:
        if self._devices is not None:
            self._devices.give_back()
            self._devices = None


async def _last(outputs: AsyncGenerator[Any]) -> Any:
    output: Any = None
    async for one in outputs:
        output = one
    return output


@contextmanager
def _isolate(log: EngineLog, timeout_s: float) -> Generator[None]:
    """What is printed inside goes to the log, and what processes print that are started inside, for ever."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault(READY_TIMEOUT, str(round(timeout_s)))
    with ExitStack() as stack:
        stack.enter_context(_set_for_children(_LOGGING, str(log.settings)))
        stack.enter_context(_hide_main())
        stack.enter_context(_put_library_first())
        stack.enter_context(log.listening())
        yield


@contextmanager
def _set_for_children(name: str, value: str) -> Generator[None]:
    """An environment variable for those that are started inside, not for what this process starts later."""
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


@contextmanager
def _hide_main() -> Generator[None]:
    """A process that is spawned imports the program that started it, which may be one that runs a pipeline."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextmanager
def _put_library_first() -> Generator[None]:
    """A process that is spawned takes over the path; folders of a user's files hide nothing of Python's own there."""
    before, wanted = list(sys.path), os.environ.get("PYTHONPATH", "").split(os.pathsep)
    library = before.index(os.path.dirname(os.__file__)) if os.path.dirname(os.__file__) in before else 0
    own = [entry for entry in before[:library] if entry not in wanted]
    sys.path[:] = [*(entry for entry in before if entry not in own), *own]
    try:
        yield
    finally:
        sys.path[:] = before
