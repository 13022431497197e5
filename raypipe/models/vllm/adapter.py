"""Gets completions from an engine of vLLM in this process, asked in the words of OpenAI's chat API.

Knows nothing of rows or limits, nor of how an engine is loaded (`engine` does). The engine takes as many requests as it
is given and batches them itself; a request leaves it as soon as it is finished.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any, TypeVar

import orjson

from raypipe.concurrency.background import TaskScope, start_thread
from raypipe.contracts.llm import LLM, Completion, Request, Usage
from raypipe.contracts.model import EndpointLimits, EngineFigures, Payload
from raypipe.errors import CallError, InfrastructureError, RaypipeError, Retry, SpecError
from raypipe.models.pooling import numbers_text
from raypipe.models.request_body import RequestWriter
from raypipe.models.tool_calls import TOOL_CALLS
from raypipe.models.vllm import options
from raypipe.models.vllm.engine import Engine
from raypipe.models.vllm.lora import adapter_folder

_T = TypeVar("_T")
_SEEDS = 2**63
_MOST_RENDERED = 64
"""Conversations whose tokens are kept for a moment: the samples of a row ask with the same."""


class _Loaded:
    """The engine that several ways of asking share: loaded by the first that is opened, ended by the first closed."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._lock = asyncio.Lock()
        self.engine: Engine | None = None
        self.tasks: tuple[str, ...] = ()
        """What the model can do, in vLLM's words."""

    async def open(self, adapter: str | None) -> None:
        """Load it, if it is not there, and the LoRA adapter in the folder."""
        async with self._lock:
            if self.engine is None:
                engine = await _in_thread(lambda: Engine(self._llm))
                self.tasks, self.engine = await engine.tasks(), engine
            if adapter is not None:
                await self.engine.adapt(adapter)

    async def close(self) -> None:
        engine, self.engine = self.engine, None
        if engine is not None:
            await _in_thread(engine.close)


async def _in_thread(work: Callable[[], _T]) -> _T:
    """What takes minutes is done in a thread that a program which ends does not wait for."""
    done: Future[_T] = Future()

    def run() -> None:
        made = work()
        with suppress(InvalidStateError):  # nobody waits any more
            done.set_result(made)

    def fail(error: RaypipeError) -> None:
        with suppress(InvalidStateError):
            done.set_exception(error)

    start_thread(run, "the engine's thread", fail)
    return await asyncio.wrap_future(done)


class VLLMModel(RequestWriter):
    """A model that runs here; implements `Model`. Raises SpecError when `llm.options` are not understood."""

    _unites_stops = True

    def __init__(self, llm: LLM, loaded: _Loaded | None = None) -> None:
        lora = {"lora": llm.lora} if llm.lora else {}
        super().__init__(llm, lora)
        self._pool_fields = lora
        self._loaded = loaded or _Loaded(llm)
        self._options = options.VLLMOptions(**llm.options)
        self._template = self._options.chat_template
        self._rendered: dict[bytes, asyncio.Task[Any]] = {}
        self._rendering = TaskScope()
        self._adapter: str | None = None

    check = staticmethod(options.check)

    async def open(self) -> None:
        """Load engine and LoRA adapter. Raises InfrastructureError with the engine's own words."""
        self._adapter = await _in_thread(lambda: adapter_folder(self._llm))
        await self._loaded.open(self._adapter)

    async def close(self) -> None:
        """End the engine."""
        await self._rendering.close()
        await self._loaded.close()

    def asked_as(self, llm: LLM) -> VLLMModel:
        """The same engine, asked as `llm` says."""
        return VLLMModel(llm, self._loaded)

    def endpoint_limits(self) -> EndpointLimits:
        """It has no endpoint, and no limits but its own."""
        return EndpointLimits()

    def figures(self) -> EngineFigures | None:
        """How the engine is doing."""
        engine = self._loaded.engine
        return None if engine is None else engine.figures

    def _tool_fields(self, request: Request) -> dict[str, Any]:
        """Raises SpecError for tools that the model may call or not."""
        if not request.must_call:
            problem = (
                "runs here and answers in words or calls tools, not one or the other; run it as a server with "
                "--enable-auto-tool-choice and name it vllm-server/…"
            )
            raise SpecError.of(f"model {self._llm.label!r}", problem)
        calls: list[dict[str, Any]] = []
        for tool in request.tools:
            fields = {"name": {"const": tool["name"]}, "arguments": tool.get("parameters") or {"type": "object"}}
            calls.append({"type": "object", "properties": fields, "required": list(fields)})
            calls[-1]["additionalProperties"] = False
        schema = {"type": "array", "minItems": 1, "items": calls[0] if len(calls) == 1 else {"anyOf": calls}}
        return {"tools": [dict(tool) for tool in request.tools], "structured_outputs": {"json": schema}}

    async def complete(self, payload: Payload, key: bytes = b"") -> Completion:
        """Send it once. Raises CallError, or ReplicaLostError when the engine is dead."""
        engine = self._loaded.engine
        if engine is None:
            raise InfrastructureError(f"model {self._llm.label!r} is not open")
        try:
            async with asyncio.timeout(self._llm.timeout_s):
                return await self._completion(engine, payload, key)
        except TimeoutError:
            problem = f"gave no answer within {self._llm.timeout_s:g} s; raise timeout_s if answers take that long"
            raise CallError(f"model {self._llm.label!r} {problem}", "timeout", Retry.LATER) from None

    async def _completion(self, engine: Engine, payload: Payload, key: bytes) -> Completion:
        body, kind = payload
        if kind in ("embed", "score"):
            return await self._pooled(engine, body, ("embed",) if kind == "embed" else _SCORING)
        self._check_task("generate")
        if kind == "prompt":
            prompt = await engine.tokenized(body["prompt"], is_begun=True)
        else:
            prompt = await self._rendered_chat(engine, body)
        output = await engine.generated(prompt, self._sampling(engine, body, key), self._adapter)
        answer = output.outputs[0]
        usage = Usage(len(output.prompt_token_ids or ()), len(answer.token_ids))
        reason = answer.finish_reason or "stop"
        if "tools" in body and reason == "stop":
            reason = TOOL_CALLS
        return Completion(answer.text, reason, usage, self._llm.model)

    async def _pooled(self, engine: Engine, body: Mapping[str, Any], tasks: Sequence[str]) -> Completion:
        task = self._check_task(*tasks)
        if "input" in body:
            prompt = await engine.tokenized(body["input"], is_begun=False)
        else:
            arguments = self._options.chat_template_kwargs | {"add_generation_prompt": body["add_generation_prompt"]}
            prompt = await engine.rendered(body["messages"], self._template, arguments)
        fields = {name: body[name] for name in ("dimensions", "use_activation") if name in body}
        output = await engine.pooled(prompt, task, fields, self._adapter)
        numbers = output.outputs.data.float().numpy()
        # A model that scores each token scores the whole text at the last one.
        text = numbers_text(numbers[-1] if task == _OF_TOKENS else numbers)
        return Completion(text, "stop", Usage(len(output.prompt_token_ids)), self._llm.model)

    def _check_task(self, *wanted: str) -> str:
        """The first of vLLM's tasks that the model can do. Raises SpecError when it can do none."""
        able = self._loaded.tasks
        found = next((task for task in wanted if task in able), None)
        if found is None:
            what, way_out = _WORDS[wanted[0]]
            problem = f"cannot {what} (vLLM says that it can: {', '.join(able)}); {way_out}"
            raise SpecError.of(f"model {self._llm.label!r}", problem)
        return found

    def _sampling(self, engine: Engine, body: Mapping[str, Any], key: bytes) -> dict[str, Any]:
        """The model's own sampling parameters, those of the request over them, and a seed that is the call's own."""
        fields = {name: value for name, value in body.items() if name not in _NO_SAMPLING}
        sampling = {"max_tokens": None, **engine.defaults, **fields}
        if self._options.seeds and key and sampling.get("temperature") != 0:
            sampling["seed"] = int.from_bytes(key[:8]) % _SEEDS
        return sampling

    async def _rendered_chat(self, engine: Engine, body: Mapping[str, Any]) -> Any:
        arguments = self._options.chat_template_kwargs | {"tools": body.get("tools")}
        conversation = orjson.dumps((body["messages"], body.get("tools")), default=dict)
        found = self._rendered.get(conversation)
        if found is None:
            work = engine.rendered(body["messages"], self._template, arguments)
            found = self._rendered[conversation] = self._rendering.start(work)
            if len(self._rendered) > _MOST_RENDERED:
                del self._rendered[next(iter(self._rendered))]
        return await asyncio.shield(found)


_OF_TOKENS = "token_classify"
_SCORING = ("classify", _OF_TOKENS)
_WORDS = {
    "generate": ("write text", "take a model that writes"),
    "embed": (
        "make embeddings",
        'take an embedding model, or load it with engine={"runner": "pooling", "convert": "embed"}',
    ),
    "classify": ("give scores", 'take a reward model or classifier, and load it with engine={"runner": "pooling"}'),
}
"""By vLLM's task: what it is, and which model can do it."""
_NO_SAMPLING = frozenset({"model", "messages", "prompt", "lora", "tools"})
