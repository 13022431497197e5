"""Lets users write tasks of their own: one method makes messages of a row, another makes columns of the answer.

Knows nothing of what is asked. A task can also be written as one function, with its prompts in its docstring.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from string import Formatter
from types import new_class
from typing import Any, NamedTuple, cast

import yaml
from pydantic import PrivateAttr

from raypipe.concurrency.user_code import UserCodeThread
from raypipe.contracts.llm import Caller, Message, Request
from raypipe.contracts.step import Columns
from raypipe.errors import RowError
from raypipe.row import MODEL_NAME, Values
from raypipe.steps.functions.batch_steps import StepColumns, StepHooks
from raypipe.steps.functions.pickled_steps import MadeOfFunction
from raypipe.steps.functions.signatures import unsound
from raypipe.steps.llm.llm_step import LLMStep
from raypipe.steps.prompts.to_text import quoted

_FORM = (
    "has no docstring with its prompts; write them as YAML, `system_prompt: …` and `user_message_template: …`, with "
    "{column} where a column goes"
)


class Task(StepHooks, LLMStep):
    """Base of tasks of one's own: subclasses say `inputs`, `outputs`, `format_input` and `format_output`.

    Both are called in a thread of the task, one call after the other, so that a slow one holds up no other step.
    """

    _beside: UserCodeThread = PrivateAttr(default_factory=lambda: UserCodeThread("task"))

    def format_input(self, input: dict[str, Any]) -> Sequence[Message]:
        """The messages that are sent for a row: `[{"role": "user", "content": "…"}]`.

        `input` is the row, with the columns under the task's own names. An error that is raised here fails this row.
        """
        raise NotImplementedError

    def format_output(self, output: str | None, input: dict[str, Any]) -> Mapping[str, Any]:
        """The columns that an answer stands for, each of `outputs` among them.

        `output` is the text of the answer, `input` the row as `format_input` was given it. An error that is raised here
        fails this row; the answer stays in the call log.
        """
        raise NotImplementedError

    def needs(self) -> Columns:
        return super().needs() if set(self.inputs) == set(self.reads()) else None

    def answer_types(self) -> dict[str, str]:
        return {name: "" for name in self.outputs if name != MODEL_NAME}

    def problems(self) -> list[str]:
        missing = [form for name, form in _FORMS.items() if getattr(type(self), name) is getattr(Task, name)]
        return super().problems() + [f"has no method {form.partition('(')[0]}; write {form}" for form in missing]

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        given = dict(row)
        messages = await self._beside.run(lambda: tuple(self.format_input(given)))
        completion = await llm.complete(Request(messages), sample=sample)
        made: Any = await self._beside.run(self.format_output, completion.text, given)
        if not isinstance(made, Mapping):
            raise RowError(f"format_output gave {quoted(made)}, not a mapping of columns to values", kind="output")
        columns = dict(cast("Mapping[str, Any]", made))
        for name in self.answer_types():
            if name not in columns:
                raise RowError(f"format_output gave no column {name!r}, which is one of its outputs", kind="output")
        return {name: columns[name] for name in self.answer_types()}


_FORMS = {"format_input": "format_input(self, input)", "format_output": "format_output(self, output, input)"}


class _Prompts(NamedTuple):
    system_prompt: str
    user_message_template: str


def task(inputs: StepColumns | None = None, outputs: StepColumns | None = None) -> Callable[[Any], type[Any]]:
    """Make a task of a function `f(output, input)`, which is given the answer and the row and returns the columns.

    Its docstring holds, as YAML, `system_prompt` and `user_message_template`, where `{column}` stands for a column.
    The function itself stays reachable as `.function`. Raises SpecError for a function of another form.
    """

    def made(function: Any) -> type[Any]:
        prompts = _prompts_of(function)
        fields = [name for text in prompts for _, name, _, _ in Formatter().parse(text) if name]
        named = {re.split(r"[.\[]", name)[0] for name in fields}
        declared = tuple(inputs or ())
        for name in declared:
            if name not in named:
                raise unsound(function, f"reads {name!r}, but its prompts have no {{{name}}}; write it there")
        for name in sorted(named - set(declared)):
            known = ", ".join(map(repr, declared)) or "none"
            raise unsound(function, f"has {{{name}}} in its prompts, which is none of its inputs ({known})")
        return _class_of(function, inputs or (), outputs or (), prompts)

    return made


def _prompts_of(function: Any) -> _Prompts:
    if not inspect.isfunction(function) or len(inspect.signature(function).parameters) != 2:
        raise unsound(function, "is not a function of an answer and a row; write def f(output, input)")
    text = re.sub(r"^---\s*$", "", inspect.getdoc(function) or "", flags=re.MULTILINE)
    try:
        said: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise unsound(function, f"{_FORM} ({' '.join(str(error).split())})") from None
    if not isinstance(said, dict) or not isinstance(said.get("user_message_template"), str):
        raise unsound(function, _FORM)
    prompts = _Prompts(str(said.get("system_prompt") or ""), said["user_message_template"])
    try:
        for one in prompts:
            list(Formatter().parse(one))
    except ValueError as error:
        raise unsound(function, f"has prompts that are not templates ({error}); write {{{{ for a brace") from None
    return prompts


def _class_of(function: Any, inputs: StepColumns, outputs: StepColumns, prompts: _Prompts) -> type[Any]:
    def format_input(self: Any, input: dict[str, Any]) -> list[dict[str, str]]:
        filled = [text.format(**{name: input.get(name) for name in inputs}) for text in prompts]
        return [{"role": role, "content": text} for role, text in zip(("system", "user"), filled, strict=True) if text]

    namespace = {
        "__module__": function.__module__,
        "__qualname__": function.__qualname__,
        "__doc__": function.__doc__,
        "inputs": property(lambda self: inputs),
        "outputs": property(lambda self: outputs),
        "format_input": format_input,
        "format_output": lambda self, output, input: function(output, input),
        "function": staticmethod(function),
    }
    made: Any = new_class(function.__name__, (MadeOfFunction, Task), exec_body=lambda body: body.update(namespace))
    made.made_by = _class_of, (function, inputs, outputs, prompts)
    return made
