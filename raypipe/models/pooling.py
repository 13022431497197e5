"""Writes requests for numbers as they are sent, and numbers as the text of a completion.

Knows nothing of which models can give them, nor of what they are for. The fields are those of OpenAI's `/embeddings`
and of vLLM's `/classify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.contracts.model import Payload
from raypipe.models.answers import completion, counted


def numbers_payload(llm: LLM, request: Request, fields: Mapping[str, Any]) -> Payload:
    """A request that has `pool`; `fields` are those that the adapter adds."""
    asked = {"messages": list(request.messages)} if request.prompt is None else {"input": request.prompt}
    if request.pool == "embed":
        size = {} if request.numbers is None else {"dimensions": request.numbers}
        return Payload({"model": llm.model, **asked, "encoding_format": "float", **size, **fields}, "embed")
    # A conversation that is judged is over: no turn is begun behind it.
    over = {"add_generation_prompt": False} if request.prompt is None else {}
    body = {"model": llm.model, **asked, **over, "use_activation": request.pool == "classify", **fields}
    return Payload(body, "score")


def numbers_text(numbers: Any) -> str:
    """Numbers, a list or an array of numpy's, as a completion holds them: as short as they can be told."""
    return orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY).decode()


def numbers_completion(answer: Mapping[str, Any], model: str) -> Completion:
    """What an endpoint answered. Raises LookupError or TypeError for what holds no numbers."""
    found = answer["data"][0]
    numbers = list(found["embedding"] if "embedding" in found else found["probs"])
    if not all(type(number) in (float, int) for number in numbers):
        raise TypeError("numbers are wanted")
    usage = counted(answer.get("usage"), only_input=True)
    return completion(numbers_text(numbers), "stop", usage, answer.get("model"), model)
