"""I write a workflow as plain data and read it again, in the form of Dria's files.

I do not know whether what I read is sound.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from raypipe.contracts.imports import found_at, imported, is_importable
from raypipe.errors import SpecError, Violation
from raypipe.security.permissions import current_permissions
from raypipe.security.secrets import redact
from raypipe.steps.answers.structured import structure_of
from raypipe.steps.llm.tools import CustomTool
from raypipe.workflows.conditions import Condition, Expression
from raypipe.workflows.definition import Definition
from raypipe.workflows.memory import Input, Output, Reading, Writing
from raypipe.workflows.search_tool import OWN_HOSTS, Search, SearchService
from raypipe.workflows.tasks import Edge, Limits, Operator, Task

Plain = dict[str, Any]

_OURS = "raypipe.workflows.http_tool:HttpRequestTool"
"""The one class of tools that a file may name as it likes: what it may send where is asked when it is made."""


def to_dict(workflow: Definition) -> Plain:
    """The workflow as plain data; a pydantic class stands there by its dotted path."""
    plain = described(workflow)
    for task in plain["tasks"]:
        if isinstance(task.get("schema"), type):
            task["schema"] = _path(task["schema"])
    return plain


def check_found(workflow: Definition) -> None:
    """Raises SpecError for a pydantic class that whoever reads the workflow cannot import."""
    hint = "cannot be imported by who reads the file; define it at the top of a module and import it from there"
    schemas = {task.id: task.schema.declared for task in workflow.tasks if task.schema is not None}
    lost = [
        Violation(f"task {task!r}", f"schema {_path(kind)} {hint}")
        for task, kind in schemas.items()
        if isinstance(kind, type) and not is_importable(kind)
    ]
    if lost:
        raise SpecError(violations=lost)


def _path(kind: type[Any]) -> str:
    return f"{kind.__module__}:{kind.__qualname__}"


def described(workflow: Definition) -> Plain:
    """The workflow as plain data, in which pydantic classes stand as themselves."""
    limits, returned = workflow.limits, workflow.return_value
    plain: Plain = {
        "config": {"max_steps": limits.max_steps, "max_time": limits.max_time, "max_tokens": limits.max_tokens},
        "external_memory": dict(workflow.memory),
        "tasks": [_task(task) for task in workflow.tasks],
        "steps": [_edge(edge) for edge in workflow.edges],
        "return_value": list(returned) if isinstance(returned, tuple) else returned,
    }
    if workflow.searches:
        plain["search_service"] = redact(asdict(workflow.search_service))
    return plain | {"custom_tools": [_tool(tool) for tool in workflow.tools]} if workflow.tools else plain


def parts_of(plain: Mapping[str, Any]) -> Plain:
    """The fields of the workflow that `plain` describes. Raises LookupError, TypeError or ValueError."""
    returned = plain.get("return_value")
    return {
        "tasks": tuple(_task_of(task) for task in plain["tasks"]),
        "edges": tuple(_edge_of(edge) for edge in plain["steps"]),
        "memory": dict(plain.get("external_memory") or {}),
        "return_value": tuple(returned) if isinstance(returned, list) else returned,
        "limits": Limits(**plain.get("config", {})),
        "tools": tuple(_tool_of(tool) for tool in plain.get("custom_tools", ())),
        "search_service": _service_of(plain.get("search_service", {})),
    }


def _service_of(plain: Plain) -> SearchService:
    service, permissions = SearchService(**plain), current_permissions()
    if plain and permissions is not None:
        permissions.check_host(service.base_url, "search_service")
        permissions.check_key(
            service.api_key_env, service.base_url, OWN_HOSTS.get(service.api_key_env, ()), "search_service"
        )
    return service


def _tool(tool: CustomTool) -> Plain:
    return {"class": _path(type(tool)), **tool.settings()}


def _tool_of(plain: Plain) -> CustomTool:
    kind = found_at(_OURS) if plain["class"] == _OURS else imported(plain["class"])
    if not (isinstance(kind, type) and issubclass(kind, CustomTool)):
        raise TypeError(f"{plain['class']!r} is no CustomTool")
    return kind.restored({name: value for name, value in plain.items() if name != "class"})


def _task(task: Task) -> Plain:
    plain: Plain = {
        "id": task.id,
        "operator": task.operator.value,
        "messages": [dict(message) for message in task.messages],
        "inputs": [_input(one) for one in task.inputs],
        "outputs": [{"type": one.writing.value, "key": one.key, "value": "__result"} for one in task.outputs],
    }
    if task.operator is Operator.SEARCH:
        plain["search"] = asdict(task.search)
    return plain if task.schema is None else plain | {"schema": task.schema.declared}


def _task_of(plain: Plain) -> Task:
    return Task(
        plain["id"],
        tuple(dict(message) for message in plain["messages"]),
        Operator(plain.get("operator", Operator.GENERATION)),
        tuple(_input_of(one) for one in plain.get("inputs", ())),
        tuple(Output(Writing(one["type"]), one["key"]) for one in plain.get("outputs", ())),
        structure_of(plain["schema"]) if plain.get("schema") is not None else None,
        Search(**plain.get("search", {})),
    )


def _input(wanted: Input) -> Plain:
    value: Plain = {"type": wanted.reading.value, "key": wanted.key}
    if wanted.reading is Reading.PEEK:
        value["index"] = wanted.index
    return {"name": wanted.key, "value": value, "required": wanted.required}


def _input_of(plain: Plain) -> Input:
    value = plain["value"]
    return Input(Reading(value["type"]), value["key"], plain.get("required", True), value.get("index", -1))


def _edge(edge: Edge) -> Plain:
    plain: Plain = {"source": edge.source, "target": edge.target}
    if edge.condition is not None:
        condition = edge.condition
        plain["condition"] = {
            "input": _input(condition.input),
            "expression": condition.expression.value,
            "expected": condition.expected,
            "target_if_not": condition.target_if_not,
        }
    return plain if edge.fallback is None else plain | {"fallback": edge.fallback}


def _edge_of(plain: Plain) -> Edge:
    said = plain.get("condition")
    condition = None
    if said is not None:
        wanted, expression = _input_of(said["input"]), Expression(said["expression"])
        condition = Condition(wanted, expression, said["expected"], said.get("target_if_not"))
    return Edge(plain["source"], plain["target"], condition, plain.get("fallback"))
