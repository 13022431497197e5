"""Writes a conversation in the form of a model's chat template, up to where the user begins to speak.

Knows nothing of what the user says there. Where only the beginning of a user's turn is known, no turns are written
before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from raypipe.contracts.llm import Message
from raypipe.errors import RowError, SpecError, nearest
from raypipe.steps.prompts.templates import Template

_NAME = re.compile(r"[\w.-]+")
_JINJA = re.compile(r"\{\{|\{%")
_NO_NEWLINE_LOST = "{{ '' }}"
"""Behind a template's last newline, which Jinja would leave out."""


@dataclass(frozen=True, slots=True)
class Turns:
    """A chat template whose turns all have one form."""

    opening: str
    head: str
    """What begins a turn, `ROLE` in place of who speaks."""
    end: str
    """What ends a turn; empty where that is not known."""
    gap: str = ""
    """White space between turns."""
    writes_turns: bool = True
    """Whether it can write the turns before the user's."""

    def prompt(self, messages: Sequence[Message]) -> str:
        """`messages`, and the beginning of the user's turn behind them. Raises RowError for turns it cannot write."""
        if messages and not self.writes_turns:
            raise RowError(f"the row has a system prompt, but {NO_TURNS}", kind="template")
        turns = [self.head.replace("ROLE", one["role"]) + one["content"] + self.end + self.gap for one in messages]
        return "".join((self.opening, *turns, self.head.replace("ROLE", "user")))


@dataclass(frozen=True, slots=True)
class Rendered:
    """A Jinja template of `messages`."""

    template: Template
    end: str = ""
    writes_turns: bool = True

    def prompt(self, messages: Sequence[Message]) -> str:
        """What the template makes of `messages`. Raises RowError."""
        return self.template.render({"messages": messages, "add_generation_prompt": False})


PreQuery = Turns | Rendered
"""What stands before a user's turn."""

PRE_QUERIES: dict[str, Turns] = {
    "llama3": Turns("<|begin_of_text|>", "<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>"),
    "qwen2": Turns("", "<|im_start|>ROLE\n", "<|im_end|>", "\n"),
}
"""Chat templates by the name of the models that brought them (https://github.com/magpie-align/magpie)."""

NO_TURNS = (
    "the model's magpie_pre_query_template says only how a user's turn begins; take "
    f"{' or '.join(map(repr, PRE_QUERIES))}, or write a Jinja template of `messages` that ends where the user begins"
)


@lru_cache(maxsize=64)
def pre_query(template: str) -> PreQuery:
    """What a `magpie_pre_query_template` stands for. Raises SpecError for a word that names none."""
    for name, known in PRE_QUERIES.items():
        if template in (name, known.prompt(())):
            return known
    if _JINJA.search(template):
        return Rendered(Template(template + _NO_NEWLINE_LOST))
    if _NAME.fullmatch(template):
        hint = nearest(template, list(PRE_QUERIES))
        problem = f"{template!r} is not a known template{hint}; write the text that begins a user's turn"
        raise SpecError.of("magpie_pre_query_template", problem)
    return Turns(template, "", "", writes_turns=False)
