"""I write a conversation in the words of a model's chat template, up to where the user begins to speak.

I do not know what the user says there. Where only the beginning of a user's turn is known, I write no turns before it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

from raypipe.contracts.llm import Message
from raypipe.errors import RowError, SpecError, nearest
from raypipe.steps.prompts.templates import Template, compile_template

_NAME = re.compile(r"[\w.-]+")
_JINJA = re.compile(r"\{\{|\{%")
_NO_NEWLINE_LOST = "{{ '' }}"
"""Behind a template's last newline, which Jinja would leave out."""


class PreQuery(Protocol):
    """What stands before a user's turn."""

    @property
    def end(self) -> str:
        """What ends a turn; empty where that is not known."""
        ...

    @property
    def writes_turns(self) -> bool:
        """Whether it can write the turns before the user's."""
        ...

    def prompt(self, messages: Sequence[Message]) -> str:
        """`messages`, and the beginning of the user's turn behind them. Raises RowError."""
        ...


@dataclass(frozen=True, slots=True)
class Turns:
    """A chat template whose turns all have one form."""

    opening: str
    head: str
    """What begins a turn, `ROLE` in place of who speaks."""
    tail: str
    writes_turns: bool = True

    @property
    def end(self) -> str:
        return self.tail.strip()

    def prompt(self, messages: Sequence[Message]) -> str:
        said = [self._head(message["role"]) + message["content"] + self.tail for message in messages]
        return "".join((self.opening, *said, self._head("user")))

    def _head(self, role: str) -> str:
        return self.head.replace("ROLE", role)


@dataclass(frozen=True, slots=True)
class Beginning:
    """The beginning of a user's turn, and nothing known beside it."""

    text: str
    end: str = ""
    writes_turns: bool = False

    def prompt(self, messages: Sequence[Message]) -> str:
        if messages:
            raise RowError(f"the row has a system prompt, but {NO_TURNS}", kind="template")
        return self.text


@dataclass(frozen=True, slots=True)
class Rendered:
    """A Jinja template of `messages`."""

    template: Template
    end: str = ""
    writes_turns: bool = True

    def prompt(self, messages: Sequence[Message]) -> str:
        return self.template.render({"messages": messages, "add_generation_prompt": False})


PRE_QUERIES: dict[str, Turns] = {
    "llama3": Turns("<|begin_of_text|>", "<|start_header_id|>ROLE<|end_header_id|>\n\n", "<|eot_id|>"),
    "qwen2": Turns("", "<|im_start|>ROLE\n", "<|im_end|>\n"),
}
"""Chat templates by the name of the models that brought them (https://github.com/magpie-align/magpie)."""

NO_TURNS = (
    "the model's magpie_pre_query_template says only how a user's turn begins; take "
    f"{' or '.join(map(repr, PRE_QUERIES))}, or write a Jinja template of `messages` that ends where the user begins"
)


@lru_cache(maxsize=64)
def pre_query(template: str) -> PreQuery:
    """What a `magpie_pre_query_template` stands for. Raises SpecError for one that is no template."""
    for name, known in PRE_QUERIES.items():
        if template in (name, known.prompt(())):
            return known
    if _JINJA.search(template):
        return Rendered(compile_template(template + _NO_NEWLINE_LOST))
    if _NAME.fullmatch(template):
        hint = nearest(template, list(PRE_QUERIES))
        problem = f"{template!r} is no known template{hint}; write the text that begins a user's turn"
        raise SpecError.of("magpie_pre_query_template", problem)
    return Beginning(template)
