"""Says what a model is: messages, request, completion, usage.

Knows nothing of how any provider is reached; `models` does. An `LLM` is a declaration that can be
written to a file; it holds the name of an environment variable, never a secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol, Self, TypedDict, Unpack, cast

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    field_validator,
    model_validator,
)

from raypipe.contracts.declaration import Spec, VariableName
from raypipe.errors import nearest
from raypipe.identity import canonical_json, digest

Message = Mapping[str, Any]
"""`{"role": "system" | "user" | "assistant" | "tool", "content": text, …}` as in OpenAI's chat API."""

Schema = Mapping[str, Any] | type[BaseModel]
"""A JSON Schema, or the pydantic class that stands for one."""


_GENERATION_FIELDS = {
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
    "random_seed": "seed",
}
"""Other words for fields of `LLM`."""
_SENT_AS_IT_IS = frozenset(
    ("frequency_penalty", "presence_penalty", "repetition_penalty", "top_k", "min_p", "logit_bias", "reasoning_effort")
)
_NO_OFFLINE_BATCHES = (
    "answers are asked for one by one, not as offline batches; leave it out and bound the run with max_cost_usd=…: one "
    "that stops goes on where it was, and no answer is paid twice"
)
_ELSEWHERE = {
    "use_offline_batch_generation": _NO_OFFLINE_BATCHES,
    "offline_batch_generation_block_until_done": _NO_OFFLINE_BATCHES,
    "jobs_ids": _NO_OFFLINE_BATCHES,
    "structured_output": "is said by the step that asks; write TextGeneration(structured_output=…)",
    "cuda_devices": "workers are given GPUs by Ray; write resources=StepResources(gpus=…) on the step",
    "max_concurrent_requests": "is called concurrency here",
    "also": "a pool of models is a list of them; write llm=[LLM(…), LLM(…)] on the step",
}
"""Options of distilabel's models."""


SEQUENCES = 256
"""Sequences that an engine works on at once where its options do not say, `max_num_seqs`."""
_IN_FLIGHT = 64
_AHEAD = 4
"""Calls beyond those that an engine works on, at least: one that is through is followed by another at once."""


def _ordered(replicas: int | tuple[int, int]) -> int | tuple[int, int]:
    if not isinstance(replicas, int) and replicas[0] > replicas[1]:
        raise ValueError(f"the fewest replicas come first: {[replicas[1], replicas[0]]}")
    return replicas


Replicas = Annotated[PositiveInt | tuple[NonNegativeInt, PositiveInt], AfterValidator(_ordered)]


class LLM(Spec):
    """A model and how it is asked: `LLM("openai/gpt-4o-mini", temperature=0.7, max_tokens=512)`.

    Two steps that name an equal `LLM` share one pool of workers.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    elsewhere: ClassVar[Mapping[str, str]] = _ELSEWHERE

    uri: str = Field(kw_only=False)
    """`provider/model`, for example `openai/gpt-4o-mini` or `ollama/llama3.1`."""
    base_url: str | None = None
    """Address of the endpoint; by default the provider's own."""
    api_key_env: VariableName | None = None
    """Name of the environment variable that holds the key; by default the provider's own; `""`: none is sent."""
    temperature: float | None = Field(default=None, ge=0)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_tokens: int | None = Field(default=None, gt=0)
    """Longest completion, in tokens."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    extra: dict[str, Any] = Field(default_factory=dict)
    """More fields of the request body, sent as they are."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Settings of the adapter itself, for example the latency of `offline`."""
    engine: dict[str, Any] = Field(default_factory=dict)
    """Of a model that runs here (`vllm/…`) or is served: options of vLLM's engine, handed to it unchanged."""
    gpus: float | None = Field(default=None, ge=0)
    """Of the same: GPUs of each engine, or a share of one; by default what `engine` asks for."""
    serve: bool = False
    """Of `vllm-server/…`: its server is started on the Ray cluster, or found where another run has started the same."""
    lora: str | None = None
    """Of a model that runs here: a LoRA adapter, as a folder or by its name on the Hugging Face hub."""
    concurrency: int | None = Field(default=None, gt=0)
    """Most calls in flight, over all replicas; by default 64, or what keeps an engine that runs here busy."""
    replicas: Replicas = 1
    """Workers, or the fewest and the most of them: more are started while rows wait, and ended when idle."""
    timeout_s: float = Field(default=600.0, gt=0)
    """Longest time one call may take, in seconds."""
    connect_timeout_s: float = Field(default=10.0, gt=0)
    read_timeout_s: float | None = Field(default=None, gt=0)
    """Longest silence of an endpoint before and while it answers; by default `timeout_s`."""
    hedge_after_s: float | None = Field(default=None, gt=0)
    """Send a call a second time when it has no answer after so long, and take the first answer; both are paid."""
    max_tries: int = Field(default=5, gt=0)
    """Most times one call is sent when it fails in a way that may pass."""
    max_wait_s: float = Field(default=900.0, gt=0)
    """Longest that the run waits for an endpoint that asks to; then it stops, to go on from there later."""
    price: tuple[float, float] | None = None
    """US dollars for a million input tokens and a million output tokens; by default from genai-prices."""
    requests_per_minute: float | None = Field(default=None, gt=0)
    """What the endpoint allows for the key, over all replicas; by default found out."""
    tokens_per_minute: float | None = Field(default=None, gt=0)
    input_tokens_per_minute: float | None = Field(default=None, gt=0)
    output_tokens_per_minute: float | None = Field(default=None, gt=0)
    magpie_pre_query_template: str | None = Field(default=None, min_length=1)
    """How a user's turn begins in the model's chat template: `llama3`, `qwen2`, or the text itself.

    It may be a Jinja template of `messages`, which writes the turns before it too.
    """
    use_magpie_template: bool = False
    """Has no effect: steps that need the template use it, others do not. Accepted for programs of distilabel."""
    weight: float = Field(default=1.0, gt=0)
    """In a pool of models: its share of the calls beside the others' weights, as long as all answer."""

    def __init__(self, uri: str = "", /, **fields: Any) -> None:
        """`generation_kwargs` may hold what is sent with each request, in the words of OpenAI or distilabel."""
        super().__init__(**({"uri": uri} | fields if uri else fields))

    @model_validator(mode="before")
    @classmethod
    def _spread(cls, fields: Any) -> Any:
        if not isinstance(fields, Mapping) or "generation_kwargs" not in fields:
            return fields
        given: dict[str, Any] = dict(cast("Mapping[str, Any]", fields))
        wanted: Mapping[str, Any] = given.pop("generation_kwargs") or {}
        extra = {**given.get("extra", {}), **(wanted.get("extra_body") or {})}
        for name, value in wanted.items():
            own = _GENERATION_FIELDS.get(name, name)
            if own in ("temperature", "top_p", "max_tokens", "seed", "stop"):
                given[own] = (value,) if own == "stop" and isinstance(value, str) else value
                if own == "stop" and value is None:
                    given[own] = ()
            elif own in _SENT_AS_IT_IS:
                extra[name] = value
            elif name != "extra_body":
                known = [*_GENERATION_FIELDS, *_SENT_AS_IT_IS, "temperature", "top_p", "max_tokens", "seed", "stop"]
                hint = f"{nearest(name, known)}; other fields of the request go into 'extra_body'"
                raise ValueError(f"generation_kwargs: unknown parameter {name!r}{hint}")
        return given | ({"extra": extra} if extra else {})

    @property
    def replica_range(self) -> tuple[int, int]:
        """The fewest and the most workers: as many, where `replicas` is one number."""
        return (self.replicas, self.replicas) if isinstance(self.replicas, int) else self.replicas

    @property
    def runs_here(self) -> bool:
        """Whether workers hold the model themselves instead of asking an endpoint."""
        return self.provider == "vllm"

    def shares_engine_with(self, other: LLM) -> bool:
        """Whether one engine can answer for both, which ask it in ways of their own: sampling, adapter, template."""
        return self.runs_here and (self.uri, self.engine, self.gpus, self.replicas, self.lora is None) == (
            other.uri,
            other.engine,
            other.gpus,
            other.replicas,
            other.lora is None,
        )

    @property
    def server_key(self) -> str:
        """The same for all that one server can answer for."""
        return digest(b"server", canonical_json([self.model, self.engine, self.gpus])).hex()

    def in_flight(self, replicas: int) -> int:
        """Most calls in flight to this model alone from each of so many replicas."""
        if self.concurrency is None and (self.runs_here or self.serve):
            sequences = self.engine.get("max_num_seqs", SEQUENCES)
            engines = replicas if self.serve else 1
            return -(-(sequences + max(_AHEAD, sequences // 8)) // engines)
        return -(-(self.concurrency or _IN_FLIGHT) // replicas)

    @field_validator("uri")
    @classmethod
    def _is_uri(cls, uri: str) -> str:
        provider, slash, model = uri.partition("/")
        if not (provider and slash and model):
            raise ValueError("a model is written provider/model, for example openai/gpt-4o-mini")
        return uri

    @model_validator(mode="after")
    def _has_template_to_use(self) -> Self:
        if self.use_magpie_template and self.magpie_pre_query_template is None:
            raise ValueError(
                'use_magpie_template needs the template; give magpie_pre_query_template="llama3", or leave it out'
            )
        return self

    @property
    def pre_query(self) -> str | None:
        """The template that begins a user's turn; the stand-in, which has no chat template, goes on from any."""
        return self.magpie_pre_query_template or ("qwen2" if self.provider == "offline" else None)

    @property
    def provider(self) -> str:
        return self.uri.partition("/")[0]

    @property
    def model(self) -> str:
        return self.uri.partition("/")[2]

    model_name = model
    """The model as its provider calls it, by distilabel's word."""

    @property
    def label(self) -> str:
        """`provider/model`: for progress, manifest and output columns."""
        return self.uri


Pooling = Literal["embed", "score", "classify"]


class Request(NamedTuple):
    """One thing to ask. Fields left `None` take the model's own setting."""

    messages: tuple[Message, ...] = ()
    schema: Mapping[str, Any] | None = None
    """JSON Schema that the completion must satisfy."""
    temperature: float | None = None
    max_tokens: int | None = None
    prompt: str | None = None
    """Instead of messages, a text to go on with as it stands, without chat template; no schema holds what follows."""
    stop: tuple[str, ...] = ()
    """Texts that end the completion, in addition to those of the model."""
    variant: int | None = None
    """Tells equal requests of different rows apart: a model with a seed takes another seed for each."""
    tools: tuple[Mapping[str, Any], ...] = ()
    """Functions that the model may call: `{"name": …, "description": …, "parameters": JSON Schema}`."""
    must_call: bool = True
    """Whether it calls one of `tools` in any case; otherwise it may answer in words."""
    form: Mapping[str, Any] | None = None
    """Instead of a schema: `{"regex": …}`, `{"choice": […]}` or `{"grammar": …}`, which the text satisfies."""
    pool: Pooling | None = None
    """Numbers are wanted instead of text: the completion's text is a JSON list of them.

    `embed` makes one vector of the text in `prompt`. `score` gives the raw numbers that a reward model or classifier
    has for the whole conversation in `messages`, or the text in `prompt`; `classify` what its activation makes of them.
    """
    numbers: int | None = None
    """How many numbers are wanted; by default as many as the model gives."""


class Usage(NamedTuple):
    """Tokens of one call, as the provider counted them."""

    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    """Of the input, those that the provider had in its cache; the call log does not keep them."""

    is_counted = True
    """Whether all of it was counted."""


TOOL = "tool/"
"""How `Completion.model` begins where the log holds the result of a tool, not a model's answer."""
TOOL_CALLS = "tool_calls"
"""The `finish_reason` of a completion that calls tools."""
REFUSAL, FILTERED = "refusal", "content_filter"
REFUSALS = frozenset({REFUSAL, FILTERED})
"""The `finish_reason` of a completion in which the model refuses to answer, or that a filter of its provider's stopped:
its text is what was said instead, or how far the answer came. It is an answer, and its row a failure."""


class Completion(NamedTuple):
    """What a model answered. `finish_reason` is `stop`, `length`, or what else the provider gave.

    Where it calls tools, `finish_reason` is `tool_calls` and the text `[{"name": …, "arguments": {…}}]` as JSON.
    """

    text: str
    finish_reason: str = "stop"
    usage: Usage = Usage()
    model: str = ""
    answered_by: str = ""
    """The label of the `LLM` that answered, where a pool of models was asked; `model` is its provider's name."""


class AskOptions(TypedDict, total=False):
    """Options of `await llm(prompt, …)`."""

    system: str | None
    schema: Schema | None
    """What the answer must satisfy, or the form of a text; the value is returned instead of the text."""
    temperature: float | None
    max_tokens: int | None
    tools: Sequence[Any]
    """`CustomTool`s or their classes, which the model may call as often as it likes before it answers."""
    max_rounds: int
    """Most rounds of such calls, by default 8."""
    execute: bool
    """`False`: the model must call tools, nothing is executed, and the calls are returned:
    `[{"name": …, "arguments": {…}}]`."""


class Caller(Protocol):
    """What a step is given to ask its model with: every call is logged, limited and retried."""

    @property
    def label(self) -> str: ...

    async def __call__(self, prompt: str | Sequence[Message], **options: Unpack[AskOptions]) -> Any:
        """Ask in plain words; returns the text, with `schema` the validated value.

        Raises `RowError` when the model cannot answer, or an option is unknown.
        """
        ...

    async def complete(self, request: Request, *, sample: int = 0) -> Completion:
        """Ask one request; `sample` tells apart several answers wanted for equal requests."""
        ...

    async def recorded(
        self, what: str, payload: Mapping[str, Any], work: Callable[[], Awaitable[str]], played: str | None = None
    ) -> str:
        """What `work` gives, which is logged like an answer, so that it is done once for equal rows and payloads.

        It is no call of the model: it takes no permit and is not counted. `what` names it in the log. What it raises is
        not logged. In a dry run `played` stands for it, if there is any.
        """
        ...
