"""Builds a workflow in Dria's words.

Knows nothing of how it is run. `build` reports everything that is wrong at once, and changes nothing, so it can be
called again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, Self, TypedDict, Unpack, cast

from raypipe.contracts.llm import Message, Schema
from raypipe.errors import SpecError, Violation, nearest
from raypipe.steps.answers.structured import Structure, structure_of
from raypipe.steps.llm.tools import CustomTool, as_tool
from raypipe.workflows.checks import check
from raypipe.workflows.memory import Input, Output, Read, Reading
from raypipe.workflows.prompts import calling_folder, read_prompt
from raypipe.workflows.search_tool import Search, SearchService
from raypipe.workflows.tasks import END, Edge, Limits, Operator, Task
from raypipe.workflows.workflow import Workflow

_FORMS: dict[type[Any], str] = {
    Edge: "Edge(source, target)",
    Input: "Read.new(key)",
    Output: "Write.new(key)",
    Mapping: '{"role": …, "content": …}',
}
"""How an item of a list is written, for messages."""


class TaskOptions(TypedDict, total=False):
    """Further options of a task."""

    path: str | Path | None
    """Instead of a prompt, a `.md` file that holds it, relative to the folder of the program that calls."""
    msg_history: Sequence[Message] | None
    """Messages before the prompt."""
    id: str | None
    """Its name in edges; by default its number, from "0"."""
    schema: Schema | str | None
    """What the answer must satisfy: a pydantic class, a JSON Schema, or the dotted path of either."""
    inputs: Sequence[Input] | None
    """Inputs besides those that its placeholders name."""
    outputs: Sequence[Output] | None
    """Where its answer is stored."""


class WorkflowBuilder:
    """Builds a workflow: `WorkflowBuilder(topic="tea").generative_step(prompt="About {{topic}}", …).build()`.

    The memory begins with `memory` and the other arguments: text, numbers and booleans are texts, lists are stacks, and
    a key with `None` must be given by the row. What is wrong is reported by `build`.
    """

    def __init__(self, memory: Mapping[str, Any] | None = None, **more: Any) -> None:
        self._problems: list[Violation] = []
        if memory is not None and not isinstance(memory, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            self._note("memory", f"is a mapping of names to values, got {memory!r}; write WorkflowBuilder(name=value)")
            memory = {}
        self._memory = {key: self._check_value(key, value) for key, value in ({**(memory or {}), **more}).items()}
        self._tasks: list[Task] = []
        self._edges: list[Edge] = []
        self._limits = Limits()
        self._tools: list[CustomTool] = []
        self._search_service = SearchService()
        self._return_value: str | tuple[str, ...] | None = None

    def generative_step(
        self,
        prompt: str | None = None,
        operator: Operator | str = Operator.GENERATION,
        **options: Unpack[TaskOptions],
    ) -> Self:
        """Add a task that asks the model; `{{name}}` in a prompt stands for the value of the memory under that name.

        With the operators FUNCTION_CALLING and FUNCTION_CALLING_RAW the model may call the workflow's tools.
        """
        name = options.get("id")
        name = str(len(self._tasks)) if name is None else name
        where = f"task {name!r}"
        for option in options.keys() - TaskOptions.__annotations__.keys():
            self._note(where, f"unknown option {option!r}{nearest(option, sorted(TaskOptions.__annotations__))}")
        text = self._read_prompt(where, prompt, options.get("path"))
        history = self._check_list(where, "msg_history", deepcopy(options.get("msg_history")), Mapping)
        self._tasks.append(
            Task(
                name,
                (*map(dict, history), {"role": "user", "content": text}),
                self._check_operator(where, operator),
                self._check_list(where, "inputs", options.get("inputs"), Input),
                self._check_list(where, "outputs", options.get("outputs"), Output),
                self._read_schema(where, options.get("schema")),
            )
        )
        return self

    def search_step(
        self,
        search_query: str | None = None,
        search_type: str = "search",
        lang: str = "en",
        n_results: int = 5,
        **options: Unpack[TaskOptions],
    ) -> Self:
        """Add a task that searches the web; the query may have placeholders.

        `search_type` is `"search"`, `"news"` or `"scholar"`, `lang` the language of the results, `n_results` the most
        that are returned (1 to 100). The result is a JSON list of `{"title", "link", "snippet"}`. See `set_search`.
        """
        self.generative_step(search_query, Operator.SEARCH, **options)
        self._tasks[-1] = replace(self._tasks[-1], search=Search(search_type, lang, n_results))
        return self

    def set_search(self, base_url: str | None = None, api_key_env: str | None = None) -> Self:
        """Choose where searches are sent, and the environment variable that holds the key.

        The defaults are https://google.serper.dev and SERPER_API_KEY; another service must have the interface of
        serper.dev.
        """
        options = {"base_url": base_url, "api_key_env": api_key_env}
        given = {name: value for name, value in options.items() if value is not None}
        self._search_service = replace(self._search_service, **given)
        return self

    def flow(self, edges: Sequence[Edge]) -> Self:
        """Set the edges between tasks; the first edge begins, and a last task without edges leads to `_end`.

        Of a task's edges the first is taken whose condition decides; where none does, the task fails (`condition`).
        """
        self._edges = list(self._check_list("flow", "edges", edges, Edge))
        return self

    def set_max_time(self, seconds: float) -> Self:
        """Limit the seconds of work on a row, by default 200; waiting until a call may be sent is not counted."""
        self._limits = replace(self._limits, max_time=seconds)
        return self

    def set_max_steps(self, n: int) -> Self:
        """Limit the tasks that are run for a row, by default to 50; a task that is run again counts again.

        A row that reaches the limit fails (`limit`).
        """
        self._limits = replace(self._limits, max_steps=n)
        return self

    def set_max_tokens(self, n: int | None) -> Self:
        """Limit the tokens of all answers for a row together; by default there is no limit.

        The last answer is cut where it would go beyond it, and the row fails (`limit`).
        """
        self._limits = replace(self._limits, max_tokens=n)
        return self

    def set_return_value(self, key: str | Sequence[str]) -> Self:
        """Set what a row gets: the value under a key, or a mapping of several keys to their values."""
        self._return_value = key if isinstance(key, str) else tuple(key) or None
        return self

    def set_tools(self, tools: Sequence[str]) -> Self:
        """Dria's own tools, which raypipe does not have: `build` refuses the workflow."""
        problem = f"set_tools({list(tools)!r}): raypipe does not have a node's tools; add your own with add_custom_tool"
        return self._note("workflow", problem)

    def add_custom_tool(self, tool: CustomTool | type[CustomTool] | Sequence[CustomTool]) -> Self:
        """Add a tool, or several, that tasks with FUNCTION_CALLING or FUNCTION_CALLING_RAW may call."""
        given: list[Any] = list(tool) if isinstance(tool, list | tuple) else [tool]
        for one in given:
            made = as_tool(one)
            if made is None:
                problem = f"add_custom_tool: a {type(one).__name__} is not executed here; write a CustomTool"
                self._note("workflow", problem)
            else:
                self._tools.append(made)
        return self

    def build(self) -> Workflow:
        """The workflow. Raises SpecError with all that is wrong with it."""
        draft = Workflow(
            tuple(self._tasks),
            self._complete_flow(),
            deepcopy(self._memory),
            self._return_value,
            self._limits,
            tuple(self._tools),
            self._search_service,
        )
        workflow = replace(draft, tasks=tuple(_bind_placeholders(task, draft) for task in draft.tasks))
        check(workflow, self._problems)
        return workflow

    def build_to_dict(self) -> dict[str, Any]:
        """The workflow as plain data. Raises SpecError with all that is wrong with it."""
        return self.build().to_dict()

    def _complete_flow(self) -> tuple[Edge, ...]:
        """The edges, and one that ends the workflow after a last task that has none."""
        last = self._tasks[-1].id if self._tasks else None
        if last is None or any(edge.source == last for edge in self._edges):
            return tuple(self._edges)
        return (*self._edges, Edge(last, END))

    def _note(self, where: str, problem: str) -> Self:
        self._problems.append(Violation(where, problem))
        return self

    def _check_value(self, key: str, value: Any) -> Any:
        """An initial value of the memory, if it is one that a file can hold."""
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, list | tuple):
            return deepcopy(list(cast("list[Any]", value)))
        kind = type(value).__name__
        self._note(f"memory key {key!r}", f"holds text, a number, a boolean or a list, not a {kind}; write it as text")
        return ""

    def _read_prompt(self, where: str, prompt: str | None, path: str | Path | None) -> str:
        if isinstance(prompt, Operator):
            self._note(where, f"the prompt is {prompt!r}; write operator={prompt!s}")
        if prompt and path:
            self._note(where, "has both a prompt and a path; leave one of them out")
        if prompt:
            return prompt
        if not isinstance(path, str | Path) or not path:
            self._note(where, "has no prompt; give it prompt=… or path=…")
            return ""
        try:
            return read_prompt(path, calling_folder())
        except SpecError as error:
            self._problems += [Violation(where, violation.problem) for violation in error.violations]
            return ""

    def _check_operator(self, where: str, operator: Operator | str) -> Operator:
        try:
            return Operator(operator)
        except ValueError:
            hint = nearest(str(operator), [one.value for one in Operator])
            self._note(where, f"there is no operator {operator!r}{hint}")
            return Operator.GENERATION

    def _read_schema(self, where: str, schema: Schema | str | None) -> Structure | None:
        try:
            return None if schema is None else structure_of(schema)
        except SpecError as error:
            self._problems += [Violation(where, f"schema: {violation.problem}") for violation in error.violations]
            return None

    def _check_list(self, where: str, what: str, given: Any, kind: type[Any]) -> tuple[Any, ...]:
        """The items of a list that are of a kind; one item alone is a list of it."""
        form = _FORMS[kind]
        listed: list[Any] = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
        for one in listed:
            if not isinstance(one, kind):
                self._note(where, f"{what} are a list of {form}, got {one!r}")
        return tuple(one for one in listed if isinstance(one, kind))


def _bind_placeholders(task: Task, draft: Workflow) -> Task:
    """The task with an input for each placeholder that has none: all values of a stack, or the text."""
    given = {wanted.key for wanted in task.inputs}
    stacks, known = draft.stacks, draft.keys
    found = [name for name in task.placeholders() if name not in given and name in known]
    inputs = [Input(Reading.GET_ALL, name) if name in stacks else Read.new(name) for name in found]
    return replace(task, inputs=(*task.inputs, *inputs))
