"""The bodies that models are sent, byte for byte, and the identities of calls: a change costs users money."""

from __future__ import annotations

from hashlib import blake2b
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import Request
from raypipe.errors import SpecError
from raypipe.identity import call_key, request_identity
from raypipe.models import LLM, open_model

TALK = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "Where is Üsküdar?"})
SCHEMA = {"title": "A place!", "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "search", "description": "Looks it up.", "parameters": {"type": "object", "properties": {}}}
REQUESTS = (
    Request(TALK),
    Request(TALK, temperature=0.0, max_tokens=7),
    Request(TALK, stop=("\n", "END")),
    Request(TALK, variant=3),
    Request(TALK, schema=SCHEMA, max_tokens=50),
    Request(TALK, form={"regex": "[a-z]+"}),
    Request(TALK, form={"choice": ["yes", "no"]}),
    Request(TALK, form={"grammar": 'root ::= "a"'}),
    Request(TALK, tools=(TOOL,)),
    Request(TALK, tools=(TOOL, {"name": "count"}), must_call=False),
    Request(TALK, tools=(TOOL, {"name": "count"}), variant=1, stop=("END",)),
    Request(prompt="Once upon"),
    Request(prompt="Once upon", temperature=0.4, max_tokens=9, stop=("a", "b", "END", "c", "d"), variant=2),
    Request(prompt="Once upon", pool="embed"),
    Request(prompt="Once upon", pool="embed", numbers=4),
    Request(TALK, pool="score"),
    Request(TALK, pool="classify", numbers=2),
    Request(prompt="Once upon", pool="classify"),
)
SET = {"temperature": 0.7, "top_p": 0.9, "max_tokens": 64, "seed": 2**31 - 2, "stop": ("END", "STOP")}
MODELS = {
    **{f"{name}/m": LLM(f"{name}/m") for name in ("openai", "mistral", "ollama", "vllm-server", "together", "offline")},
    **{
        f"{name}/m, set": LLM(f"{name}/m", **SET, extra={"top_k": 5})
        for name in ("openai", "groq", "mistral", "gemini", "ollama", "vllm-server", "offline", "vllm")
    },
    "openai/m, elsewhere": LLM("openai/m", base_url="http://localhost:1/v1", seed=1),
    "openai/m, loose": LLM(
        "openai/m", options={"strict_schema": False, "completion_limit": "max_tokens"}, max_tokens=3
    ),
    "openai/m, offered": LLM("openai/m", extra={"tool_choice": "none", "stop": ["x"], "logprobs": True}),
    "offline/m, answers": LLM("offline/m", options={"answers": ["a", "b"]}, seed=1),
    "vllm/m": LLM("vllm/m"),
    "vllm/m, adapted": LLM("vllm/m", lora="some/adapter", seed=4, temperature=0.0),
}


def bodies_of(llm: LLM) -> list[Any]:
    """What each request becomes; `None` where the model cannot be asked."""
    model, found = open_model(llm), list[Any]()
    for request in REQUESTS:
        try:
            found.append(model.payload(request).body)
        except SpecError:
            found.append(None)
    return found


def digest_of(llm: LLM) -> str:
    """Of the bytes of all bodies, and of the identities of the calls. Bodies that no endpoint is sent have no order."""
    hasher, order = blake2b(digest_size=8), orjson.OPT_SORT_KEYS if llm.provider in ("offline", "vllm") else None
    for body in bodies_of(llm):
        hasher.update(orjson.dumps(body, default=dict, option=order))
        if body is not None:
            hasher.update(call_key("step", b"row", 0, 1, request_identity(llm.label, body)))
    return hasher.hexdigest()


KEPT: dict[str, str] = {
    "openai/m": "0bd6f5b994b39ab8",
    "mistral/m": "1ce980822fa7347f",
    "ollama/m": "9dafa0d573982024",
    "vllm-server/m": "5020c5e044421069",
    "together/m": "08c01df13f46b658",
    "offline/m": "63ad7202842dcb2e",
    "openai/m, set": "c62ee030084e09e2",
    "groq/m, set": "b1560b67aebadd82",
    "mistral/m, set": "08de0850af1b536e",
    "gemini/m, set": "2f34b747951bf244",
    "ollama/m, set": "954829f0f69499ad",
    "vllm-server/m, set": "7d3caba46427bd27",
    "offline/m, set": "a24c0ed885a31271",
    "vllm/m, set": "d4c05f3a10c7a16c",
    "openai/m, elsewhere": "05690bf271a03f44",
    "openai/m, loose": "91b26b85527da7f7",
    "openai/m, offered": "1888d5934687534b",
    "offline/m, answers": "b40ea4c161d5a795",
    "vllm/m": "5db2f95cc6bafbe0",
    "vllm/m, adapted": "c229b4b01b4733fe",
}


def test_every_model_has_a_kept_digest() -> None:
    assert list(KEPT) == list(MODELS)


@pytest.mark.parametrize("name", KEPT)
def test_bodies_and_identities_stay(name: str) -> None:
    assert digest_of(MODELS[name]) == KEPT[name]
