"""Writes a workflow as plain data and reads it again, in the form of Dria's files.

Knows nothing of whether what it reads is sound.
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

PATH = "{0.__module__}:{0.__qualname__}"
"""The dotted path of a class."""

_OURS = "raypipe.workflows.http_tool:HttpRequestTool"
"""The one class of tools that any file may name: its permissions are checked when the tool is made."""


def check_importable(workflow: Definition) -> None:
    """Raises SpecError for a pydantic class that a reader of the saved workflow cannot import."""
    hint = "cannot be imported by a reader of the file; define it at the top of a module and import it from there"
    schemas = {task.id: task.schema.declared for task in workflow.tasks if task.schema is not None}
    lost = [
        Violation(f"task {task!r}", f"schema {PATH.format(kind)} {hint}")
        for task, kind in schemas.items()
        if isinstance(kind, type) and not is_importable(kind)
    ]
    if lost:
        raise SpecError(violations=lost)


def describe(workflow: Definition) -> Plain:
    """The workflow as plain data, in which a pydantic class is the class itself."""
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
    if workflow.tools:
        plain["custom_tools"] = [{"class": PATH.format(type(tool)), **tool.settings()} for tool in workflow.tools]
    return plain


def read_parts(plain: Mapping[str, Any]) -> Plain:
    """The fields of the workflow that `plain` describes. Raises LookupError, TypeError or ValueError."""
    returned = plain.get("return_value")
    return {
        "tasks": tuple(_read_task(task) for task in plain["tasks"]),
        "edges": tuple(_read_edge(edge) for edge in plain["steps"]),
        "memory": dict(plain.get("external_memory") or {}),
        "return_value": tuple(returned) if isinstance(returned, list) else returned,
        "limits": Limits(**plain.get("config", {})),
        "tools": tuple(_read_tool(tool) for tool in plain.get("custom_tools", ())),
        "search_service": _read_service(plain.get("search_service", {})),
    }


def _read_service(plain: Plain) -> SearchService:
    """Raises SpecError where the file may not send a key to the service."""
    service, permissions = SearchService(**plain), current_permissions()
    if plain and permissions is not None:
        permissions.check_host(service.base_url, "search_service")
        hosts = OWN_HOSTS.get(service.api_key_env, ())
        permissions.check_key(service.api_key_env, service.base_url, hosts, "search_service")
    return service


def _read_tool(plain: Plain) -> CustomTool:
    """Raises SpecError for a class that cannot or may not be imported."""
    kind = found_at(_OURS) if plain["class"] == _OURS else imported(plain["class"])
    if not (isinstance(kind, type) and issubclass(kind, CustomTool)):
        raise TypeError(f"{plain['class']!r} is not a CustomTool")
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


def _read_task(plain: Plain) -> Task:
    return Task(
        plain["id"],
        tuple(dict(message) for message in plain["messages"]),
        Operator(plain.get("operator", Operator.GENERATION)),
        tuple(_read_input(one) for one in plain.get("inputs", ())),
        tuple(Output(Writing(one["type"]), one["key"]) for one in plain.get("outputs", ())),
        structure_of(plain["schema"]) if plain.get("schema") is not None else None,
        Search(**plain.get("search", {})),
    )


def _input(wanted: Input) -> Plain:
    value: Plain = {"type": wanted.reading.value, "key": wanted.key}
    if wanted.reading is Reading.PEEK:
        value["index"] = wanted.index
    return {"name": wanted.key, "value": value, "required": wanted.required}


def _read_input(plain: Plain) -> Input:
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


def _read_edge(plain: Plain) -> Edge:
    written = plain.get("condition")
    condition = None
    if written is not None:
        wanted, expression = _read_input(written["input"]), Expression(written["expression"])
        condition = Condition(wanted, expression, written["expected"], written.get("target_if_not"))
    return Edge(plain["source"], plain["target"], condition, plain.get("fallback"))
