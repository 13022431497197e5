"""The memory of a workflow while it works on one row: texts by key, and stacks of values by key.

Knows nothing of the tasks that read and write it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, NamedTuple, cast

from raypipe.errors import RowError, nearest

KIND = "memory"
"""The kind of failure of a row for which the memory lacks something."""


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
    """What a task takes from the memory for the placeholder of that name. Make one with `Read.new(key)` and others."""

    reading: Reading
    key: str
    required: bool = True
    """Whether a missing value fails the task; otherwise it is empty text."""
    index: int = _NEWEST
    """Of `Peek`: 0 is the oldest value, -1 the newest."""


class _InputMaker:
    reading: ClassVar[Reading]

    @classmethod
    def new(cls, key: str, required: bool = True) -> Input:
        """An input under `key`; without a value the task fails, unless `required` is false: then it is empty text."""
        return Input(cls.reading, key, required)


class Read(_InputMaker):
    """The text under a key: `Read.new("topic")`."""

    reading = Reading.READ


class Pop(_InputMaker):
    """The newest value of a stack, which is removed from it."""

    reading = Reading.POP


class GetAll(_InputMaker):
    """All values of a stack, the oldest first; in a prompt they are a JSON list."""

    reading = Reading.GET_ALL


class Size(_InputMaker):
    """The number of values in a stack."""

    reading = Reading.SIZE


class String(_InputMaker):
    """The text itself, whatever the memory holds."""

    reading = Reading.STRING


class Peek:
    """One value of a stack, which stays in it: `Peek.new("drafts", index=0)`."""

    @staticmethod
    def new(key: str, index: int = _NEWEST, required: bool = True) -> Input:
        """An input under `key`; `index` 0 is the oldest value, -1 the newest. A boolean `index` is `required`."""
        if isinstance(index, bool):
            return Input(Reading.PEEK, key, index)
        return Input(Reading.PEEK, key, required, index)


class Writing(StrEnum):
    """How a task stores its result."""

    WRITE = "write"
    PUSH = "push"
    INSERT = "insert"


@dataclass(frozen=True, slots=True)
class Output:
    """Where a task stores its result. Make one with `Write.new(key)` or `Push.new(key)`."""

    writing: Writing
    key: str


class _OutputMaker:
    writing: ClassVar[Writing]

    @classmethod
    def new(cls, key: str) -> Output:
        """An output under `key`."""
        return Output(cls.writing, key)


class Write(_OutputMaker):
    """The result becomes the text under a key: `Write.new("answer")`."""

    writing = Writing.WRITE


class Push(_OutputMaker):
    """The result is pushed on a stack: `Push.new("answers")`."""

    writing = Writing.PUSH


class Insert(_OutputMaker):
    """Dria's search memory, which raypipe does not have: a workflow with it is refused when it is built."""

    writing = Writing.INSERT


class Memory(NamedTuple):
    """The memory of one row."""

    texts: dict[str, Any]
    stacks: dict[str, list[Any]]

    @classmethod
    def of(cls, initial: Mapping[str, Any], given: Mapping[str, Any], stacks: frozenset[str]) -> Memory:
        """`given` over `initial`; `stacks` are the keys that hold stacks. Raises RowError for what does not fit."""
        memory = cls({}, {key: [] for key in stacks})
        for key, value in (*initial.items(), *given.items()):
            if key not in stacks:
                if isinstance(value, list | tuple):
                    problem = f"memory key {key!r} holds text, but was given a list; write WorkflowBuilder({key}=[])"
                    raise RowError(problem, kind=KIND)
                memory.texts[key] = value
            elif value is None or isinstance(value, list | tuple):
                memory.stacks[key] = [] if value is None else list(cast("list[Any]", value))
            else:
                kind = type(value).__name__
                raise RowError(f"memory key {key!r} holds a stack, but was given a {kind}; give it a list", kind=KIND)
        return memory

    def take(self, wanted: Input) -> Any:
        """The value that an input asks for; `None` where there is none. Raises RowError where it is required."""
        value = self._look_up(wanted)
        if value is not None or not wanted.required:
            return value
        if wanted.reading is Reading.READ:
            held = [key for key, value in self.texts.items() if value is not None]
            hint = "give it an initial value, or read it with required=False"
            raise RowError(f"nothing is written under {wanted.key!r} yet{nearest(wanted.key, held)}; {hint}", kind=KIND)
        size = len(self.stacks[wanted.key])
        at = f" at {wanted.index}" if wanted.reading is Reading.PEEK else ""
        problem = f"the stack {wanted.key!r} has nothing{at} to {wanted.reading} (its size: {size})"
        raise RowError(problem, kind=KIND)

    def put(self, output: Output, value: Any) -> None:
        """Store a result."""
        if output.writing is Writing.PUSH:
            self.stacks[output.key].append(value)
        else:
            self.texts[output.key] = value

    def _look_up(self, wanted: Input) -> Any:
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
