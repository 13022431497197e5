"""Makes a completion of what an endpoint answered; whatever it wrote, each field of it is of its own kind.

Knows nothing of HTTP, nor where in an answer a field stands. The only place where an endpoint's words become fields of
a completion: the call log keeps them, and a name that is an object or 2^63 tokens would make it unreadable for good.
"""

from __future__ import annotations

from typing import Any, cast

from raypipe.contracts.llm import FILTERED, Completion, Usage

MOST_TOKENS = 2 * 10**7
"""More than any model reads or writes at once: a larger count is none."""
_LONGEST_WORD = 200
_FILTERS = frozenset(
    ("content_filtered", "safety", "blocklist", "prohibited_content", "spii", "sensitive", "guardrail_intervened")
)
"""Other words for `content_filter`: Gemini's, Zhipu's, Bedrock's, and those that gateways make of them."""


class Uncounted(Usage):
    """What an endpoint counted where it counted not all, or what can be no count: 0 stands for that."""

    __slots__ = ()

    is_counted = False


def completion(text: str, finish_reason: Any, usage: Usage, model: Any, asked: str) -> Completion:
    """`finish_reason` and `model` as the endpoint wrote them; `asked` is the model's name where it gave none."""
    sound = text if text.isascii() else sound_text(text)
    reason = word(finish_reason) or "stop"
    if reason != "stop" and reason.lower() in _FILTERS:
        reason = FILTERED
    return Completion(sound, reason, usage, word(model) or asked)


def usage_of(input_tokens: Any, output_tokens: Any = 0) -> Usage:
    """What an endpoint counted; a count that can be none counts nothing, and the usage says so."""
    counts: list[int | None] = []
    for value in (input_tokens, output_tokens):
        is_whole = type(value) is int or (type(value) is float and value.is_integer())
        counts.append(int(value) if is_whole and 0 <= value <= MOST_TOKENS else None)
    kind = Uncounted if None in counts else Usage
    return kind(*(count or 0 for count in counts))


def counted(usage: Any, *, only_input: bool = False) -> Usage:
    """What OpenAI's API counts in `usage`, whatever stands there."""
    counts = cast("dict[str, Any]", usage) if isinstance(usage, dict) else {}
    read, written = counts.get("prompt_tokens"), counts.get("completion_tokens")
    if type(read) is int and type(written) is int and 0 <= read <= MOST_TOKENS and 0 <= written <= MOST_TOKENS:
        details = counts.get("prompt_tokens_details")
        if type(details) is dict:
            cached = usage_of(cast("dict[str, Any]", details).get("cached_tokens")).input_tokens
            return Usage(read, 0 if only_input else written, min(cached, read))
        return Usage(read, 0 if only_input else written)
    return usage_of(read, 0 if only_input else written)


def word(value: Any) -> str:
    """A name or a reason; empty for what is none."""
    if type(value) is str and len(value) <= _LONGEST_WORD and value.isascii():
        return value
    return sound_text(value)[:_LONGEST_WORD] if isinstance(value, str) else ""


def sound_text(text: str) -> str:
    """The text with every character that no file can hold replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
