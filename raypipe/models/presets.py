"""Holds what is known of each provider: where it speaks OpenAI's chat API, and what must be set before it answers.

Knows no HTTP: turns a declaration and the environment into an address, a key and a list of what is missing, so that a
pipeline can be checked without loading an HTTP library.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field

from raypipe.contracts.declaration import Spec
from raypipe.contracts.llm import LLM
from raypipe.contracts.model import Kind
from raypipe.errors import SpecError, Violation
from raypipe.security.secrets import find_secrets, redact_address

CompletionLimit = Literal["max_tokens", "max_completion_tokens"]
PlainWay = Literal["completions", "ollama"]
"""OpenAI's `/completions`, or Ollama's own `/api/generate`, whose `/completions` puts the chat template around a prompt
all the same (https://github.com/ollama/ollama/issues/12636)."""


@dataclass(frozen=True, slots=True)
class Preset:
    """What all models of one provider have in common."""

    base_url: str
    key_env: str | None = None
    """Environment variable that holds the key; `None`: the endpoint takes none."""
    is_key_optional: bool = False
    completion_limit: CompletionLimit = "max_tokens"
    """Name of the request field that bounds the completion."""
    seed: str = "seed"
    """Name of the request field that fixes the sampling."""
    base_url_env: str | None = None
    """Environment variable that replaces the whole address."""
    queues: bool = False
    """A server of one's own: it lets calls wait where a provider would refuse them."""
    host_env: str | None = None
    """Environment variable that replaces scheme, host and port of the address."""
    plain: PlainWay | None = None
    """How it is given a prompt without chat template; `None`: it takes none."""
    embeds: bool = False
    """Whether it has `/embeddings`."""
    is_vllm: bool = False
    """vLLM's own server: raypipe can start it, it has reward models, and it holds a text to any form."""
    hosts: tuple[str, ...] = ()
    """Its hosts beside that of `base_url`, as patterns: what its key may be sent to."""
    chat_only_hosts: tuple[str, ...] = ()
    """Patterns of hosts that take no prompt without chat template, where other servers are asked in its way."""
    plain_elsewhere: PlainWay | None = None
    """How those other servers are given one."""
    counts_requests_a_day: bool = False
    """Whether the requests that its headers name are those of a day, not of a minute."""
    price_list: str | None = None
    """Its name in genai-prices; `None`: its prices are not known."""


PRESETS: dict[str, Preset] = {
    "openai": Preset(
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        completion_limit="max_completion_tokens",
        base_url_env="OPENAI_BASE_URL",
        embeds=True,
        hosts=("*.api.openai.com",),
        chat_only_hosts=("*.openai.com", "*.azure.com"),
        plain_elsewhere="completions",
        price_list="openai",
    ),
    "mistral": Preset(
        "https://api.mistral.ai/v1", "MISTRAL_API_KEY", seed="random_seed", embeds=True, price_list="mistral"
    ),
    "gemini": Preset(
        "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY", embeds=True, price_list="google"
    ),
    "vertex": Preset(
        "https://{host}/v1/projects/{project}/locations/{location}/endpoints/openapi",
        "VERTEX_ACCESS_TOKEN",
        hosts=("aiplatform.googleapis.com", "*-aiplatform.googleapis.com"),
        price_list="google",
    ),
    "anthropic": Preset("https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", price_list="anthropic"),
    "groq": Preset("https://api.groq.com/openai/v1", "GROQ_API_KEY", counts_requests_a_day=True, price_list="groq"),
    "together": Preset(
        "https://api.together.xyz/v1", "TOGETHER_API_KEY", plain="completions", embeds=True, price_list="together"
    ),
    "deepseek": Preset("https://api.deepseek.com/v1", "DEEPSEEK_API_KEY", price_list="deepseek"),
    "openrouter": Preset("https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", embeds=True, price_list="openrouter"),
    "ollama": Preset("http://localhost:11434/v1", host_env="OLLAMA_HOST", queues=True, plain="ollama", embeds=True),
    "vllm-server": Preset(
        "http://localhost:8000/v1",
        "VLLM_API_KEY",
        is_key_optional=True,
        queues=True,
        plain="completions",
        embeds=True,
        is_vllm=True,
    ),
}

KEYS_OF_RESOURCES: dict[str, tuple[str, ...]] = {
    "AZURE_OPENAI_API_KEY": ("*.openai.azure.com", "*.cognitiveservices.azure.com", "*.services.ai.azure.com")
}
"""Environment variable → hosts, where a key opens a resource that a user has under a name of their own."""

OWN_FIELDS = ("messages", "model", "n", "prompt", "stream")
"""Request fields that `extra` must leave alone: one answer is asked for and read, whole."""

_CHAT_PATH = "/chat/completions"


class OpenAIOptions(Spec):
    """`LLM.options` of every model behind an OpenAI-compatible endpoint."""

    completion_limit: CompletionLimit | None = None
    """Name of the request field that bounds the completion; by default the provider's own."""
    strict_schema: bool = True
    """Whether the endpoint is told to hold the completion to the schema exactly."""


class ServedOptions(OpenAIOptions):
    """`LLM.options` of a model whose server is started for it."""

    load_timeout_s: float = Field(default=1800.0, gt=0)
    """Longest time until the server answers, in seconds: for its GPUs to be free, to download and to load the model."""
    idle_s: float = Field(default=300.0, ge=0)
    """How long the server stays when no run uses it any more, in seconds."""


def options_of(llm: LLM) -> type[OpenAIOptions]:
    """What `llm.options` may hold."""
    return ServedOptions if llm.serve else OpenAIOptions


def base_url(llm: LLM) -> str:
    """Address of the endpoint without a trailing slash: the declared one, the environment's, the provider's."""
    preset = PRESETS[llm.provider]
    chosen = llm.base_url or environment_url(llm.provider) or preset.base_url
    return chosen.strip().rstrip("/")


def urls_of(llm: LLM) -> dict[Kind, str]:
    """Addresses that requests are posted to, by their kind, whether the endpoint takes such requests or not.

    Texts for their embeddings go to OpenAI's `/embeddings`, conversations for the scores of a reward model or
    classifier to vLLM's `/classify`.
    """
    address = base_url(llm)
    chat, root = address + _CHAT_PATH, address.removesuffix("/v1")
    plain = {"ollama": f"{root}/api/generate", "completions": f"{address}/completions", None: chat}
    return {
        "chat": chat,
        "wrapped": chat,
        "prompt": plain[plain_way(llm)],
        "embed": f"{address}/embeddings",
        "score": f"{root}/classify",
    }


def plain_way(llm: LLM) -> PlainWay | None:
    """How the model is given a prompt without chat template; `None` where it is not."""
    preset = PRESETS[llm.provider]
    if preset.plain_elsewhere is None:
        return preset.plain
    try:
        host = urlsplit(base_url(llm)).hostname or ""
    except ValueError:
        return preset.plain
    return (
        preset.plain
        if any(fnmatchcase(host, pattern) for pattern in preset.chat_only_hosts)
        else preset.plain_elsewhere
    )


def no_plain_prompts(llm: LLM) -> str:
    """Why a model that has no `plain_way` cannot write a user's turn, and which can."""
    able = ", ".join(f"{name}/…" for name, preset in PRESETS.items() if preset.plain)
    return (
        f"{llm.provider} takes whole conversations only, so its models cannot go on with a text as it stands, which "
        f"Magpie needs; take {able} or, at an endpoint of your own that has /completions, openai/… with base_url"
    )


def key_env(llm: LLM) -> str | None:
    """Name of the environment variable that holds the key: the model's own, or its provider's.

    `None` where the endpoint takes no key, as `api_key_env=""` says of one that otherwise would.
    """
    return (llm.api_key_env or None) if llm.api_key_env is not None else PRESETS[llm.provider].key_env


def read_key(llm: LLM) -> str:
    """The key itself, from the environment; empty where none is set."""
    name = key_env(llm)
    return os.environ.get(name, "").strip() if name else ""


def check(llm: LLM) -> list[Violation]:
    """Everything that would keep the model from answering and can be known without asking it."""
    where = f"model {llm.label!r}"
    problems = [*_address_problems(llm), *_key_problems(llm)]
    for name in OWN_FIELDS:
        if name in llm.extra:
            problems.append(f"extra must not set {name!r}, which is decided by the request; leave it out")
    if llm.magpie_pre_query_template is not None and plain_way(llm) is None:
        problems.append(no_plain_prompts(llm))
    return [Violation(where, problem) for problem in problems] + check_options(llm, options_of(llm))


def check_options(llm: LLM, options: type[Spec]) -> list[Violation]:
    """What is wrong with `llm.options`, for an adapter that reads them as `options`."""
    try:
        options(**llm.options)
    except SpecError as error:
        return [Violation(f"model {llm.label!r} options", found.problem) for found in error.violations]
    return []


def environment_url(provider: str) -> str:
    """Address of the provider as the environment names it; empty where it does not."""
    preset = PRESETS[provider]
    if preset.base_url_env:
        return os.environ.get(preset.base_url_env, "")
    if preset.host_env and os.environ.get(preset.host_env):
        return _with_host(preset.base_url, os.environ[preset.host_env])
    return _vertex_url(preset.base_url) if "{project}" in preset.base_url else ""


def _with_host(address: str, host: str) -> str:
    own = urlsplit(address)
    if "//" in host:
        return host.rstrip("/") + own.path
    has_port = host.rpartition("]")[2].count(":") == 1
    return f"{own.scheme}://{host}{own.path}" if has_port else f"{own.scheme}://{host}:{own.port}{own.path}"


def _vertex_url(template: str) -> str:
    project = os.environ.get("GOOGLE_CLOUD_PROJECT", "")
    location = os.environ.get("GOOGLE_CLOUD_LOCATION") or "global"
    prefix = "" if location == "global" else f"{location}-"
    filled = template.format(host=f"{prefix}aiplatform.googleapis.com", project=project, location=location)
    return filled if project else ""


def _address_problems(llm: LLM) -> list[str]:
    address = base_url(llm)
    if "{project}" in address:
        return ["the project is not known; set GOOGLE_CLOUD_PROJECT (and GOOGLE_CLOUD_LOCATION, by default global)"]
    try:
        parts = urlsplit(address)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return ["base_url is no address; write it like http://localhost:8000/v1"]
    if parts.username or parts.password or parts.query or parts.fragment or find_secrets(address):
        return ["base_url carries more than an address; put the key in an environment variable, name it in api_key_env"]
    if not is_address or any(sign.isspace() for sign in address):
        return [f"base_url {redact_address(address)!r} is no address; write it like http://localhost:8000/v1"]
    if parts.path.endswith(_CHAT_PATH):
        return [f"base_url {address!r} names the method as well; leave out {_CHAT_PATH}"]
    return []


def _key_problems(llm: LLM) -> list[str]:
    name, key = key_env(llm), read_key(llm)
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        return [f"the key in {name} has characters that no HTTP header can carry; set it again without them"]
    if key or name is None or not _is_key_needed(llm):
        return []
    way_out = f"set {name}, or try the pipeline without a key with --model NAME=offline/stand-in"
    return [f"the environment variable {name} is not set; {way_out}"]


def _is_key_needed(llm: LLM) -> bool:
    if llm.api_key_env:
        return True
    preset = PRESETS[llm.provider]
    is_replaced = llm.base_url or (preset.base_url_env and os.environ.get(preset.base_url_env))
    # A server of one's own may take no key; it says so at the first call if it does.
    is_own_server = bool(is_replaced) and base_url(llm) != preset.base_url
    return not preset.is_key_optional and not is_own_server
