"""I write requests for numbers as they are sent, and numbers as the text of a completion.

I do not know which models can give them, nor what they are for. The words are those of OpenAI's `/embeddings` and of
vLLM's `/classify`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from raypipe.contracts.llm import Completion, Request
from raypipe.models.answers import completion, counted


def numbers_payload(model: str, request: Request) -> dict[str, Any]:
    """The body of a request that has `pool`."""
    said = {"messages": list(request.messages)} if request.prompt is None else {"input": request.prompt}
    if request.pool == "embed":
        size = {} if request.numbers is None else {"dimensions": request.numbers}
        return {"model": model, **said, "encoding_format": "float", **size}
    # A conversation that is judged is over: no turn is begun behind it.
    over = {"add_generation_prompt": False} if request.prompt is None else {}
    return {"model": model, **said, **over, "use_activation": request.pool == "classify"}


def gives_numbers(payload: Mapping[str, Any]) -> bool:
    """Whether a body asks for numbers, not for text."""
    return is_embedding(payload) or "use_activation" in payload


def is_embedding(payload: Mapping[str, Any]) -> bool:
    """Whether a body asks for an embedding."""
    return "encoding_format" in payload


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
