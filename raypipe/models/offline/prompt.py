"""Reads a prompt: what it is about, how many things it wants, which words it uses.

Knows nothing of what is answered to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

MOST_ITEMS = 50
"""Longest list that a prompt's number is followed to."""

_LARGEST_COUNT = 1000
_MOST_READ = 16_000
"""Characters of a message."""
_MOST_WORDS = 5
_SPELT = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NUMBERS = {word: number for number, word in enumerate(_SPELT, 2)}
_NUMBER = rf"\d{{1,4}}|{'|'.join(_NUMBERS)}"

_LABELLED = re.compile(
    r"(?:^|[.\n])[^\S\n]*(?:[Tt]he |[Gg]iven )?[A-Za-z][\w -]{1,30}?(?: is)?:[^\S\n]*([^\s<\[{(][^\n]{0,300})"
    r"|<([a-z_]+)>\s*([^<\n]{2,300}?)\s*</\2>"
)
_HEADED = re.compile(
    r"^#{1,6} *(?:the )?(?:input|instruction|question|topic|text|prompt|passage|document|task) *:? *\n+"
    r" *([^\s#][^\n]{0,300})",
    re.IGNORECASE | re.MULTILINE,
)
_ABOUT = re.compile(r"\babout\s+([^\n.?!]{2,200})", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s")
_WORD = re.compile(r"[^\W\d_][\w'-]*")
_NOUN = re.compile(rf"\b(?:{_NUMBER}|(?:list|lists|set) of)\s+(?:[a-z-]+\s+){{0,3}}?([a-z_-]*[a-z]s)\b", re.IGNORECASE)
_WANTED = re.compile(
    r"\b(?:write|list|name|give|generate|create|produce|propose|provide|invent|suggest|find|ask)(?:\s+[a-z]+){0,3}?\s+"
    rf"({_NUMBER})\b(?!\.\d)",
    re.IGNORECASE,
)
_INTEGER = re.compile(r"(?<![\w.,-])\d{1,4}(?!\w|[.,]\d)")
_NUMBER_WORD = re.compile(rf"\b(?:{'|'.join(_NUMBERS)})\b", re.IGNORECASE)

_MARK = re.compile(r"<\|?[^<>|\s]{1,40}\|?>")
_ROLE = re.compile(r"^(system|user|assistant|model|human)\b\W*", re.IGNORECASE)
_USERS = ("user", "human")

_EMPTY = """
a about above after again all also an and another answer answers any approach approaches are aren't array as ask
asked asks assistant at be because been before beginner being below best better between both but by can cannot
care case changed character characters clear code come comma commas compare could curious describe description
descriptions did different do document does don't each eight either eleven else every example examples expert
explain fact facts file first five follow followed following for format formulate found four from function
functions generate give given gives go good great guide happen has have having he help helpful her here him his
how i idea ideas if improve in include inside instruction instructions into invent is it item items its json
just key keys known label language less lesson like line lines list lists look made make makes many may me
measured might misunderstood model more most much must my name need needs new newcomer newline nine no not
nothing now number numbered numbers object of often on one only or other our out output over own paragraph per
pipeline plan play please possible produce progress prompt propose provide provided put python question
questions rate rating rationale read real related reply respond response responses return rewrite right role
same say scale score sentence sentences separate separated seven she short should shown shows single six so some
someone start step still string subtopic subtopics such summarise summarize tag tags task ten text texts than
that the their them then there these they thing things think thinking this those three through time tip tips
title to topic topics twelve two under up upon use used useful user uses using value values variations very want
was way we well were what when where whether which while who whose why will with within without word words work
would write wrong yes you your
"""
_EMPTY_WORDS = frozenset(_EMPTY.split())


@dataclass(frozen=True)
class Prompt:
    """The texts of a request's messages."""

    user: str
    """The last message of the user."""
    system: str = ""
    all_text: str = ""
    is_users_turn: bool = False
    """Whether it ends where the user would speak."""

    @classmethod
    def of_text(cls, text: str) -> Prompt:
        """A conversation in the words of a chat template."""
        parts = [part.strip() for part in _MARK.split(text)]
        said = [found for part in parts if (found := _ROLE.sub("", part))]
        is_users_turn = next((part for part in reversed(parts) if part), "").rstrip(": ").lower().endswith(_USERS)
        return cls(_read(said[-1]) if said else "", all_text=text, is_users_turn=is_users_turn)

    @classmethod
    def of(cls, messages: Sequence[Mapping[str, Any]]) -> Prompt:
        """A conversation in the words of a chat API; the parts of a content are lines, what is no text is empty."""
        texts: list[tuple[Any, str]] = []
        for message in messages:
            content: Any = message.get("content")
            if isinstance(content, list):
                parts = cast("list[Any]", content)
                content = "\n".join(part.get("text", "") if isinstance(part, dict) else str(part) for part in parts)  # pyright: ignore
            texts.append((message.get("role"), content if isinstance(content, str) else ""))
        system = "\n".join(text for role, text in texts if role == "system")
        asked = [text for role, text in texts if role != "system"]
        user = next((text for role, text in reversed(texts) if role == "user"), asked[-1] if asked else "")
        return cls(_read(user), _read(system), "\n".join(text for _, text in texts))

    @cached_property
    def wording(self) -> str:
        """Where the prompt may say which form the answer should have."""
        return f"{self.system}\n{self.user}" if self.system else self.user

    @cached_property
    def subject(self) -> str:
        """What the prompt is about, in a few of its own words."""
        # What stands behind a label on a line of its own says it better than what follows a colon somewhere.
        labels = sorted(_LABELLED.finditer(self.user), key=lambda found: found.group().startswith("."))
        labelled = (found.group(1) or found.group(3) for found in labels)
        headed = (found.group(1) for found in _HEADED.finditer(self.user))
        about = (found.group(1) for found in _ABOUT.finditer(self.user))
        for said in (*headed, *labelled, *about, self.user):
            named = _named(_SENTENCE_END.split(said.strip())[0]) or _named(said)
            if named:
                return named
        return "the subject"

    @cached_property
    def count(self) -> int | None:
        """How many things the prompt asks for, at most `MOST_ITEMS`: the number behind a verb, or its first one."""
        wanted = _WANTED.search(self.user)
        found = wanted.group(1) if wanted else None
        for pattern in (_INTEGER, _NUMBER_WORD):
            first = None if found else pattern.search(self.user)
            found = first.group() if first else found
        number = 0 if found is None else _NUMBERS.get(found.lower()) or int(found)
        return min(number, MOST_ITEMS) if 0 < number <= _LARGEST_COUNT else None

    @cached_property
    def noun(self) -> str:
        """What the things are called that the prompt asks for, in plural; empty where it does not say."""
        found = _NOUN.search(self.user)
        return found.group(1).lower() if found else ""


def _read(text: str) -> str:
    """What of a text is looked through: begin and end of one so long that looking for forms in it would take long."""
    return text if len(text) <= _MOST_READ else text[: _MOST_READ // 2] + text[-_MOST_READ // 2 :]


def _named(text: str) -> str:
    """A few words in a row that `text` is about: from its first content word to the last near it."""
    found = next((word for word in _WORD.finditer(text) if word.group().lower() not in _EMPTY_WORDS), None)
    if found is None:
        return ""
    words = re.split(r"[^\w\s'-]|\s-\s|\n", text[found.start() :])[0].split()[:_MOST_WORDS]
    while words[-1].lower() in _EMPTY_WORDS:
        words.pop()
    return " ".join(words)
