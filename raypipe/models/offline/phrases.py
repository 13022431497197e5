"""Makes phrases, questions, tasks and sentences about a subject.

Knows nothing of which of them is wanted where. A `turn` picks one: 64 turns in a row give 64 different ones.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial

ASPECTS = (
    """
foundations|history|applications|methods|evaluation|ethics|tooling|benchmarks|limitations|open problems|case studies
best practices|common mistakes|trade-offs|data quality|terminology|safety|regulation|economics|education|research trends
design patterns|measurement|reproducibility|scaling|maintenance|deployment|testing|documentation|collaboration
accessibility|privacy|sustainability|performance|reliability|visualisation|interpretation|communication|planning
automation|standards|governance|failure analysis|cost control|security|optimisation|simulation|forecasting|monitoring
training|theory|experiments|infrastructure|policy|culture|risk|quality control|user needs|resource use|adoption
integration|comparison|innovation|future directions
""".strip()
    .replace("\n", "|")
    .split("|")
)
"""64 things that can be said to belong to nearly any subject."""

TOPICS = (
    "gardening",
    "tax law",
    "Python",
    "sleep",
    "volcanoes",
    "chess",
    "bread",
    "travel",
    "statistics",
    "poetry",
    "batteries",
    "nutrition",
    "city planning",
    "music theory",
    "first aid",
    "databases",
)
"""What people ask about."""
_QUESTIONS = (
    "How should a beginner approach {aspect} in {subject}?",
    "Why would an expert care about {aspect} in {subject}?",
    "What is often misunderstood about {aspect} in {subject}?",
    "How has thinking about {aspect} in {subject} changed over time?",
    "Which example best shows {aspect} in {subject}?",
    "What would go wrong without {aspect} in {subject}?",
    "How can progress on {aspect} in {subject} be measured?",
)
_TASKS = (
    "Explain {aspect} in {subject} to a curious reader.",
    "Write a short guide to {aspect} in {subject}.",
    "Compare different approaches to {aspect} in {subject}.",
    "Describe a real example of {aspect} in {subject}.",
    "Summarise what is known about {aspect} in {subject}.",
)
_SENTENCES = (
    "Work on {subject} starts with {aspect} and the reasons behind it.",
    "Many disagreements about {subject} come down to {aspect}.",
    "A practical way to learn about {subject} is to look closely at {aspect}.",
    "In everyday use, attention to {aspect} decides how well {subject} holds up.",
    "People who master {subject} tend to begin with {aspect}.",
    "It helps to compare several views on {aspect} before judging {subject}.",
    "With {aspect} out of the way, the rest of {subject} becomes easier to explain.",
)
_FIRST_NAMES = (
    "Ada",
    "Noor",
    "Mateo",
    "Yuki",
    "Lena",
    "Omar",
    "Priya",
    "Tomas",
    "Amara",
    "Felix",
    "Ines",
    "Kofi",
    "Mei",
    "Jonas",
    "Sara",
    "Viktor",
)
_LAST_NAMES = ("Okafor", "Lindgren", "Tanaka", "Moreau", "Silva", "Novak", "Haddad", "Iyer")
# An odd stride visits all 64 aspects before it comes back to the first.
_STRIDE = 23


def aspect(turn: int) -> str:
    return ASPECTS[turn * _STRIDE % len(ASPECTS)]


def phrase(subject: str, turn: int) -> str:
    """A short noun phrase."""
    return f"{subject} {aspect(turn)}"


def _filled(patterns: tuple[str, ...], subject: str, turn: int) -> str:
    made = patterns[turn % len(patterns)].format(aspect=aspect(turn), subject=subject)
    return made[0].upper() + made[1:]


Maker = Callable[[str, int], str]
"""Makes a text about a subject; turns in a row give different ones."""

question: Maker = partial(_filled, _QUESTIONS)
task: Maker = partial(_filled, _TASKS)
"""Something to do."""
sentence: Maker = partial(_filled, _SENTENCES)


def paragraph(subject: str, turn: int) -> str:
    """Two or three sentences."""
    return " ".join(sentence(subject, 3 * turn + index) for index in range(2 + turn % 2))


def person(subject: str, turn: int) -> str:
    """A person's name."""
    first, last = turn % len(_FIRST_NAMES), turn // len(_FIRST_NAMES) % len(_LAST_NAMES)
    return f"{_FIRST_NAMES[first]} {_LAST_NAMES[last]}"


def word(subject: str, turn: int) -> str:
    """One word, as a label."""
    return aspect(turn).replace(" ", "-")


def program(subject: str, turn: int) -> str:
    """A few lines of Python."""
    name = word(subject, turn).replace("-", "_")
    return f'def {name}(items):\n    """{phrase(subject, turn)}."""\n    return sorted(set(items))'


# Letters and numbers that tell equal names apart ("RESPONSE A", "answer_2") are no words.
_NAME_PART = re.compile(r"[^\W\d_]{2,}")

_MAKERS: dict[str, Maker] = {
    "question query": question,
    "instruction prompt task variation request": task,
    "answer response text content rationale explanation reason reasoning description summary critique feedback context"
    " story bio backstory essay passage thought analysis completion generation output thinking": paragraph,
    "sentence fact claim statement comment example": sentence,
    "title heading headline": lambda subject, turn: phrase(subject, turn).title(),
    "name author person people persona character participant user customer student employee profile": person,
    "label category tag class keyword key id language genre": word,
    "code program function script": program,
}
_MAKER_OF = {name: maker for names, maker in _MAKERS.items() for name in names.split()}


def maker_for(name: str) -> Maker:
    """What makes texts for something called `name`: a property, a marker or a noun, singular or plural."""
    words: list[str] = _NAME_PART.findall(name.lower())
    last = words[-1] if words else ""
    for form in (last, last.removesuffix("s"), last.removesuffix("ies") + "y"):
        if form in _MAKER_OF:
            return _MAKER_OF[form]
    return phrase
