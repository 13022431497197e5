"""Finds everything that is wrong with a workflow, before anything is spent on it.

Knows nothing of how it was made: by a builder or from a file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

from raypipe.errors import SpecError, Violation, nearest
from raypipe.workflows.definition import Definition
from raypipe.workflows.memory import OF_STACKS, Input, Reading, Writing
from raypipe.workflows.prompts import COMPUTED
from raypipe.workflows.tasks import CALLING, END, Edge, Limits, Operator, Task

_ROLES = ("system", "user", "assistant", "tool")


def check(workflow: Definition, known: Iterable[Violation] = ()) -> None:
    """Raises SpecError with `known` and all that is wrong with the workflow."""
    own = (*_limits(workflow.limits), *_memory(workflow), *workflow.search_service.unsound())
    problems = [*known, *(Violation("workflow", problem) for problem in own)]
    for task in workflow.tasks:
        where = f"task {task.id!r}"
        problems += [Violation(where, problem) for problem in (*_task(task), *_bindings(task, workflow))]
        if task.operator in CALLING and not workflow.tools:
            problem = f"{task.operator.name} has no tools to call; add one with add_custom_tool"
            problems.append(Violation(where, problem))
    problems += [*_tools(workflow), *_flow(workflow)]
    written = sorted(workflow.written(Writing.WRITE, Writing.PUSH))
    for key in workflow.returned_keys:
        if key not in written:
            problems.append(Violation("return value", f"no task writes {key!r}{nearest(key, written)}"))
    if problems:
        raise SpecError(violations=problems)


def _limits(limits: Limits) -> Iterator[str]:
    allowed: list[tuple[str, Any, str]] = [
        ("max_time", int | float, "a number above 0"),
        ("max_steps", int, "a whole number above 0"),
        ("max_tokens", int, "a whole number above 0, or None"),
    ]
    for name, kind, form in allowed:
        value: Any = getattr(limits, name)
        if name == "max_tokens" and value is None:
            continue
        if not isinstance(value, kind) or isinstance(value, bool) or value <= 0:
            yield f"{name} must be {form}, got {value!r}"


def _memory(workflow: Definition) -> Iterator[str]:
    if not workflow.tasks:
        yield "has no tasks; add one with generative_step"
    texts = {key for key, value in workflow.memory.items() if not isinstance(value, list)}
    for key in sorted(workflow.stacks & (workflow.written(Writing.WRITE) | texts)):
        yield f"memory key {key!r} is text in one place and a stack in another; give them different names"
    ids = Counter(task.id for task in workflow.tasks)
    for name in (name for name, count in ids.items() if count > 1):
        yield f"has {ids[name]} tasks with the id {name!r}; give each an id of its own"


def _task(task: Task) -> Iterator[str]:
    if not isinstance(task.id, str) or not task.id or task.id == END:  # pyright: ignore[reportUnnecessaryIsInstance]
        yield f"an id is text other than {END!r}"
    for message in task.messages:
        if message.get("role") not in _ROLES or not isinstance(message.get("content"), str):
            yield f'msg_history: a message is {{"role": {" | ".join(_ROLES)}, "content": text}}, got {dict(message)!r}'
    if task.operator in CALLING and task.schema is not None:
        yield f"has a schema, which is for {Operator.GENERATION.name}; {task.operator.name} answers with a call"
    if task.operator is Operator.SEARCH:
        yield from _search(task)
    elif task.operator is not Operator.GENERATION and task.operator not in CALLING:
        yield f"{task.operator.name} is not an operator of a task here; use {Operator.GENERATION.name}"
    for output in task.outputs:
        if output.writing is Writing.INSERT:
            yield f"inserts into {output.key!r}, but raypipe has no search memory; use Push and GetAll"
    names = Counter(wanted.key for wanted in task.inputs)
    for name in (name for name, count in names.items() if count > 1):
        yield f"has {names[name]} inputs for {{{{{name}}}}}; leave one"


def _tools(workflow: Definition) -> Iterator[Violation]:
    names = Counter(tool.called for tool in workflow.tools)
    for name in (name for name, count in names.items() if count > 1):
        yield Violation(f"tool {name!r}", f"is one of {names[name]} with this name; give each a name of its own")
    for tool in workflow.tools:
        try:
            tool.structure()
        except SpecError as error:
            yield from (Violation(f"tool {tool.called!r}", violation.problem) for violation in error.violations)


def _search(task: Task) -> Iterator[str]:
    if task.schema is not None:
        yield f"has a schema, which is for {Operator.GENERATION.name}; a search gives a JSON list of its results"
    if len(task.messages) != 1:
        yield "msg_history: a search has a query and no messages before it; leave it out"
    yield from task.search.problems()


def _bindings(task: Task, workflow: Definition) -> Iterator[str]:
    """Inputs and placeholders of a task that the memory cannot fill."""
    known = sorted(workflow.keys)
    bound = {wanted.key for wanted in task.inputs}
    missing = [name for name in task.placeholders() if name not in bound]
    for name in missing:
        hint = f"{nearest(name, known)}; for what a row brings, write WorkflowBuilder({name}=None)"
        yield f"missing required input {name!r}: nothing gives {{{{{name}}}}} a value{hint}"
    for wanted in task.inputs:
        yield from _binding(wanted, workflow)
    for message in task.messages:
        for name, text in {found[1]: found[0] for found in COMPUTED.finditer(str(message.get("content")))}.items():
            if name in known:
                yield f"{text} computes something, but a placeholder is only a name; write {{{{{name}}}}}"


def _binding(wanted: Input, workflow: Definition) -> Iterator[str]:
    if wanted.reading is Reading.STRING:
        return
    known, form = sorted(workflow.keys), wanted.reading.name.title().replace("_", "")
    if wanted.key not in known:
        hint = nearest(wanted.key, known)
        yield f"missing required input {wanted.key!r}: {form}.new({wanted.key!r}) finds no such memory key{hint}"
    elif (wanted.reading in OF_STACKS) is not (wanted.key in workflow.stacks):
        held = "a stack; use GetAll, Pop, Peek or Size" if wanted.key in workflow.stacks else "text; use Read"
        yield f"{form}.new({wanted.key!r}): the key holds {held}"


def _flow(workflow: Definition) -> Iterator[Violation]:
    ids = list(dict.fromkeys(task.id for task in workflow.tasks))
    for edge in workflow.edges:
        where = f"edge {edge.source!r} → {edge.target!r}"
        yield from (Violation(where, problem) for problem in _edge(edge, ids, workflow))
    sources = {edge.source for edge in workflow.edges}
    for one in ids:
        if one not in sources:
            problem = f"has no outgoing edges; add Edge(source={one!r}, target={END!r}) to the flow"
            yield Violation(f"task {one!r}", problem)
    yield from _never_taken(workflow)
    reached = _reachable(workflow)
    if sources <= set(ids):
        for one in (one for one in ids if one in sources and one not in reached):
            problem = f"is never reached from {workflow.start!r}, where the first edge begins; add an edge to it"
            yield Violation(f"task {one!r}", problem)


def _edge(edge: Edge, ids: list[str], workflow: Definition) -> Iterator[str]:
    if edge.source not in ids:
        yield f"source: there is no task {edge.source!r}{nearest(edge.source, ids)}"
    for option, task in edge.targets().items():
        if task not in ids and task != END:
            yield f"{option}: there is no task {task!r}{nearest(task, [*ids, END])}"
    if edge.condition is not None:
        own = edge.condition.problem()
        for problem in (*([] if own is None else [own]), *_binding(edge.condition.input, workflow)):
            yield f"condition: {problem}"


def _never_taken(workflow: Definition) -> Iterator[Violation]:
    decided: set[str] = set()
    for edge in workflow.edges:
        if edge.source in decided:
            problem = f"is never taken: an edge of {edge.source!r} before it always decides; remove one"
            yield Violation(f"edge {edge.source!r} → {edge.target!r}", problem)
        if edge.condition is None or edge.condition.target_if_not is not None:
            decided.add(edge.source)


def _reachable(workflow: Definition) -> set[str]:
    """Tasks that a way from the start leads to."""
    reached: set[str] = set()
    ahead = [workflow.start] if workflow.edges else []
    while ahead:
        one = ahead.pop()
        if one not in reached:
            reached.add(one)
            ahead += [task for edge in workflow.edges if edge.source == one for task in edge.targets().values()]
    return reached
