"""Answers a prompt in the form its wording asks for.

Knows neither schemas nor the right answer. A form is found by the words people use for it; the first
of `_FORMS` that a prompt asks for is used, and prose where it asks for none.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson

from raypipe.models.offline import phrases
from raypipe.models.offline.prompt import Prompt

_FEW_ITEMS = 4
_GRADES = ("score", "rating", "grade")

_TAG = re.compile(r"<([A-Za-z_][\w-]*)>(?:(.*?)</\1>)?(\s+(?:xml )?tags?\b)?", re.DOTALL)
_PLACEHOLDER = re.compile(r"\W*|(?=.{0,60}$).*\b(?:your|here|insert|goes)\b.*", re.DOTALL | re.IGNORECASE)
_FORMAT = re.compile(
    r"(?:\b(?:format|formatted|follows|like this|this form)\b[^\n]{0,60}:|^#[^\n]*\bformat\b[^\n]*)[^\S\n]*\n",
    re.IGNORECASE | re.MULTILINE,
)
_MARKER = re.compile(r"([#*>\s-]*[A-Z][\w \[\]#()-]{0,40}?)(\**:\**)(?:\s|$)")
_QUOTED_MARKER = re.compile(r"[`'\"*]([A-Z][A-Z0-9_ -]{0,30}):")
_YES_OR_NO = re.compile(r"\b(yes)\b['\"`*]*\s*(?:or|/|,|\|)\s*['\"`*]*no\b", re.IGNORECASE)
_ONE_THING = re.compile(
    r"\b(?:(?:reply|answer|respond)\s+(?:only\s+)?with\s+the"
    r"|(?:generate|write|create|ask|formulate|invent|propose|give)\s+(?:me\s+)?(?:a|an|one|1))"
    r"\s+([a-z-]+(?:\s+[a-z-]+){0,2})",
    re.IGNORECASE,
)
_CLOSED_QUESTION = re.compile(
    r"(?:is|are|was|were|does|do|did|can|could|has|have|should|will|would)\b[^.?!\n]*\?", re.IGNORECASE
)
_CHOICE = re.compile(r"\b(?:one of|either)\b[^:\n]{0,40}:\s*([^\n.]+)", re.IGNORECASE)
_SCALE = re.compile(
    r"\b(?:scores?|rat(?:e|ing)|scale|grade)\b.{0,80}?\b(\d+)\s*(?:to|and|-|\u2013)\s*(\d+)", re.IGNORECASE | re.DOTALL
)
_LIST_LITERAL = re.compile(r"\b(?:json|python)\s+(?:list|array)\b|\blist of (?:strings|json)\b", re.IGNORECASE)
_JSON_KEY = re.compile(r"[\"']([A-Za-z_]\w*)[\"']\s*:")
_COMMAS = re.compile(r"\bseparated (?:by|with) (?:a |only )?commas?\b|\bcomma[- ]separated\b", re.IGNORECASE)
_NUMBERED = re.compile(r"(?<!not )(?<!without )\bnumbered\b", re.IGNORECASE)
_BULLETS = re.compile(r"\bbullet", re.IGNORECASE)
_LINES = re.compile(
    r"\bnewlines?\b|\bone (?:\w+ )?per line\b|\b(?:own|new|separate|single) line\b|\bline by line\b|\blist of\b",
    re.IGNORECASE,
)

Form = Callable[[Prompt, int], str | None]


def answer(prompt: Prompt, turn: int) -> str:
    """A plausible answer; equal arguments give equal texts."""
    if prompt.is_users_turn:
        # What a user might say next, about what was said or, at the beginning, about anything.
        make = phrases.question if turn % 2 else phrases.task
        return make(prompt.subject if prompt.user else phrases.TOPICS[turn // 2 % len(phrases.TOPICS)], turn // 2)
    for form in _FORMS:
        text = form(prompt, turn)
        if text is not None:
            return text
    return _prose(prompt, turn)


def prose_of(prompt: Prompt, turn: int, length: int) -> str:
    """Prose of exactly `length` characters."""
    sentences: list[str] = []
    missing = length
    while missing > 0:
        sentences.append(phrases.sentence(prompt.subject, turn + len(sentences)))
        missing -= len(sentences[-1]) + 1
    return " ".join(sentences)[:length].ljust(length, ".")


def json_object(prompt: Prompt, turn: int) -> dict[str, Any]:
    """An object with the keys that the prompt quotes, or with `answer`."""
    keys = dict.fromkeys(_JSON_KEY.findall(prompt.wording)) or {"answer": None}
    return {key: _value(key, prompt, turn) for key in keys}


def _prose(prompt: Prompt, turn: int) -> str:
    names = (name for asked in _ONE_THING.findall(prompt.user) for name in asked.lower().split())
    for maker in map(phrases.maker_for, names):
        if maker is not phrases.phrase:
            return maker(prompt.subject, turn)
    return phrases.paragraph(prompt.subject, turn)


def _value(name: str, prompt: Prompt, turn: int) -> Any:
    if any(grade in name.lower() for grade in _GRADES):
        return int(_grade(prompt, turn) or 1 + turn % 5)
    return phrases.maker_for(name)(prompt.subject, turn)


def _items(prompt: Prompt, turn: int) -> list[str]:
    make = phrases.maker_for(prompt.noun)
    return [make(prompt.subject, turn + index) for index in range(prompt.count or _FEW_ITEMS)]


def _tagged(prompt: Prompt, turn: int) -> str | None:
    names: dict[str, None] = {}
    for name, inner, said in _TAG.findall(prompt.wording):
        is_closed = f"</{name}>" in prompt.wording
        if said or (is_closed and _PLACEHOLDER.fullmatch(inner)):
            names[name] = None
    return "\n".join(f"<{name}>{_value(name, prompt, turn)}</{name}>" for name in names) if names else None


def _marked(prompt: Prompt, turn: int) -> str | None:
    asked = _FORMAT.search(prompt.wording)
    written = _marked_lines(prompt, turn, asked.end()) if asked else []
    if not written:
        names = dict.fromkeys(_QUOTED_MARKER.findall(prompt.wording))
        written = [f"{name}: {_value(name, prompt, turn + index)}" for index, name in enumerate(names)]
    return "\n".join(written) if written else None


def _marked_lines(prompt: Prompt, turn: int, start: int) -> list[str]:
    """The `NAME: …` lines that begin at `start`, filled in; after an empty line they go on only below a heading."""
    written: list[str] = []
    length = 0
    for index, line in enumerate(prompt.wording[start:].splitlines()):
        marker = _MARKER.match(line)
        if marker and (not length or written[-1].strip()):
            name, colon = marker.groups()
            written.append(f"{name}{colon} {_value(name, prompt, turn + index)}")
            length = len(written)
        elif not line.strip() or line.startswith("#"):
            written.append(line)
        else:
            break
    return written[:length]


def _yes_or_no(prompt: Prompt, turn: int) -> str | None:
    asked = _YES_OR_NO.search(prompt.wording)
    if not asked and not _CLOSED_QUESTION.match(prompt.user.lstrip()):
        return None
    # Mostly yes: a pipeline that asks again until the answer is yes comes to an end.
    verdict = "no" if turn % 4 == 0 else "yes"
    spelling = asked.group(1) if asked else "yes"
    if spelling.isupper():
        return verdict.upper()
    return verdict.capitalize() if spelling[0].isupper() else verdict


def _choice(prompt: Prompt, turn: int) -> str | None:
    asked = _CHOICE.search(prompt.wording)
    options = re.split(r"\s*(?:,|;|\bor\b|/)\s*", asked.group(1)) if asked else []
    options = [option.strip(" '\"`*()[]") for option in options if option.strip(" '\"`*()[]")]
    return options[turn % len(options)] if len(options) > 1 else None


def _grade(prompt: Prompt, turn: int) -> str | None:
    asked = _SCALE.search(prompt.wording)
    if not asked:
        return None
    least, most = int(asked.group(1)), int(asked.group(2))
    return str(least + turn % (most - least + 1)) if least < most else None


def _json_literal(prompt: Prompt, turn: int) -> str | None:
    has_keys = _JSON_KEY.search(prompt.wording)
    made: Any = None
    if _LIST_LITERAL.search(prompt.wording) and has_keys:
        made = [json_object(prompt, turn + index) for index in range(prompt.count or _FEW_ITEMS)]
    elif _LIST_LITERAL.search(prompt.wording):
        made = _items(prompt, turn)
    elif has_keys and "json" in prompt.wording.lower():
        made = json_object(prompt, turn)
    return None if made is None else orjson.dumps(made).decode()


def _list(prompt: Prompt, turn: int) -> str | None:
    if _COMMAS.search(prompt.wording):
        return ", ".join(item.replace(",", "") for item in _items(prompt, turn))
    if _NUMBERED.search(prompt.wording):
        return "\n".join(f"{number}. {item}" for number, item in enumerate(_items(prompt, turn), 1))
    if _BULLETS.search(prompt.wording):
        return "\n".join(f"- {item}" for item in _items(prompt, turn))
    is_list = _LINES.search(prompt.wording) or (prompt.count or 0) > 1 < len(prompt.noun)
    return "\n".join(_items(prompt, turn)) if is_list else None


_FORMS: tuple[Form, ...] = (
    _tagged,
    _marked,
    _json_literal,
    _yes_or_no,
    _choice,
    _grade,
    _list,
)
