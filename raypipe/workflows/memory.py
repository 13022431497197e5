"""I am what a workflow remembers while it works on one row: texts by key, and stacks of values by key.

I do not know which task reads or writes me.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple, cast

from raypipe.errors import RowError, nearest

KIND = "memory"
"""Groups failures of rows for which the memory lacks something."""


class Reading(StrEnum):
    """How an input takes its value."""

    READ = "read"
    POP = "pop"
    PEEK = "peek"
    GET_ALL = "get_all"
    SIZE = "size"
    STRING = "string"


OF_STACKS = frozenset({Reading.POP, Reading.PEEK, Reading.GET_ALL, Reading.SIZE})
_NEWEST = -1


@dataclass(frozen=True, slots=True)
class Input:
    """What a task takes from the memory for the placeholder of that name. Make one with `Read.new(key)` or others."""

    reading: Reading
    key: str
    required: bool = True
    """A value that is not there fails the task; otherwise it is empty text."""
    index: int = _NEWEST
    """Of `Peek`: 0 is the oldest value, -1 the newest."""


class Read:
    """The text under a key."""

    @staticmethod
    def new(key: str, required: bool = True) -> Input:
        return Input(Reading.READ, key, required)


class Pop:
    """The newest value of a stack, which leaves it."""

    @staticmethod
    def new(key: str, required: bool = True) -> Input:
        return Input(Reading.POP, key, required)


class Peek:
    """One value of a stack, which stays in it; index 0 is the oldest, -1 the newest."""

    @staticmethod
    def new(key: str, index: int = _NEWEST, required: bool = True) -> Input:
        if isinstance(index, bool):
            return Input(Reading.PEEK, key, index)
        return Input(Reading.PEEK, key, required, index)


class GetAll:
    """All values of a stack, the oldest first; a placeholder shows them as a JSON list."""

    @staticmethod
    def new(key: str, required: bool = True) -> Input:
        return Input(Reading.GET_ALL, key, required)


class Size:
    """How many values a stack has."""

    @staticmethod
    def new(key: str, required: bool = True) -> Input:
        return Input(Reading.SIZE, key, required)


class String:
    """The text itself, whatever the memory holds."""

    @staticmethod
    def new(key: str, required: bool = True) -> Input:
        return Input(Reading.STRING, key, required)


class Writing(StrEnum):
    """How a task leaves its result."""

    WRITE = "write"
    PUSH = "push"
    INSERT = "insert"


@dataclass(frozen=True, slots=True)
class Output:
    """Where a task leaves its result. Make one with `Write.new(key)` or `Push.new(key)`."""

    writing: Writing
    key: str


class Write:
    """The result becomes the text under a key."""

    @staticmethod
    def new(key: str) -> Output:
        return Output(Writing.WRITE, key)


class Push:
    """The result is put on a stack."""

    @staticmethod
    def new(key: str) -> Output:
        return Output(Writing.PUSH, key)


class Insert:
    """Dria's search memory, which is not here: a workflow with it is refused when it is built."""

    @staticmethod
    def new(key: str) -> Output:
        return Output(Writing.INSERT, key)


class Memory(NamedTuple):
    """What is remembered for one row."""

    texts: dict[str, Any]
    stacks: dict[str, list[Any]]

    @classmethod
    def of(cls, initial: Mapping[str, Any], given: Mapping[str, Any], stacks: frozenset[str]) -> Memory:
        """`initial` under `given`; keys that hold stacks are in `stacks`. Raises RowError for what does not fit."""
        memory = cls({}, {key: [] for key in stacks})
        for key, value in (*initial.items(), *given.items()):
            if key in stacks:
                memory.stacks[key] = _items(key, value)
            elif isinstance(value, list | tuple):
                problem = f"memory key {key!r} holds text, but was given a list; write WorkflowBuilder({key}=[])"
                raise RowError(problem, kind=KIND)
            else:
                memory.texts[key] = value
        return memory

    def take(self, wanted: Input) -> Any:
        """The value that an input asks for; `None` where there is none. Raises RowError where it is required."""
        value = self._found(wanted)
        if value is None and wanted.required:
            raise RowError(self._lack(wanted), kind=KIND)
        return value

    def put(self, output: Output, value: Any) -> None:
        if output.writing is Writing.PUSH:
            self.stacks[output.key].append(value)
        else:
            self.texts[output.key] = value

    def _found(self, wanted: Input) -> Any:
        if wanted.reading is Reading.STRING:
            return wanted.key
        if wanted.reading is Reading.READ:
            return self.texts.get(wanted.key)
        stack = self.stacks[wanted.key]
        if wanted.reading is Reading.SIZE:
            return len(stack)
        if wanted.reading is Reading.GET_ALL:
            return list(stack)
        if wanted.reading is Reading.POP:
            return stack.pop() if stack else None
        return stack[wanted.index] if -len(stack) <= wanted.index < len(stack) else None

    def _lack(self, wanted: Input) -> str:
        if wanted.reading is Reading.READ:
            held = [key for key, value in self.texts.items() if value is not None]
            hint = "give it an initial value, or read it with required=False"
            return f"nothing is written under {wanted.key!r} yet{nearest(wanted.key, held)}; {hint}"
        size = len(self.stacks[wanted.key])
        at = f" at {wanted.index}" if wanted.reading is Reading.PEEK else ""
        return f"the stack {wanted.key!r} has nothing{at} to {wanted.reading} (its size: {size})"


def _items(key: str, value: Any) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list | tuple):
        kind = type(value).__name__
        raise RowError(f"memory key {key!r} holds a stack, but was given a {kind}; give it a list", kind=KIND)
    return list(cast("list[Any]", value))
