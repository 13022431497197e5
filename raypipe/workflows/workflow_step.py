"""Makes a workflow a step: a row's columns are its memory, its return value a new column.

Knows nothing of what the workflow asks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from pydantic import Field, PrivateAttr, field_serializer, field_validator

from raypipe.concurrency.user_code import UserCodeThread
from raypipe.contracts.imports import imported_function
from raypipe.contracts.llm import Caller
from raypipe.contracts.model_pool import first_of
from raypipe.contracts.step import Columns, Output, Step
from raypipe.errors import RowError, SpecError
from raypipe.row import MODEL_NAME, Values
from raypipe.security.permissions import check_file
from raypipe.steps.answers.parsing import as_json_list
from raypipe.steps.answers.schemas import arrow_type
from raypipe.workflows.builder import WorkflowBuilder
from raypipe.workflows.saving import describe
from raypipe.workflows.workflow import Workflow

_ROW = "row"


class WorkflowStep(Step):
    """Runs a workflow for each row; every task's call is logged, so an interrupted row continues inside its workflow.

    Columns fill the memory keys of the same name. With `.scatter()` the return value is a list, or text that holds a
    JSON list, and each of its items a row. A row whose workflow reaches a limit, or whose function makes no sound
    workflow, fails. Raises SpecError for an unsound workflow.
    """

    workflow: Any
    """A `Workflow`, the mapping of `Workflow.to_dict`, a `.json` file of it relative to `base_dir`, or a function (or
    its dotted path) that makes one for each row: its parameters are columns, or its only one is `row` and gets all."""
    inputs: list[str] | None = None
    """Columns that are given; by default the parameters of a function, or all columns that a workflow has keys for."""
    output: str | None = None
    """The column for the return value; by default each returned key is a column."""
    add_model_name: bool | None = None
    """Whether to add the column `model_name`, the model that answered last; by default where a step behind reads that
    column, or where a pool of models is asked."""
    base_dir: str | None = Field(default=None, exclude=True, repr=False)
    """Folder that files are relative to; by default the working directory."""

    _beside: UserCodeThread = PrivateAttr(default_factory=lambda: UserCodeThread("workflow"))

    def __init__(self, name: str | None = None, /, **fields: Any) -> None:
        workflow, folder = fields.get("workflow"), fields.get("base_dir") or "."
        if isinstance(workflow, str) and workflow.endswith(".json"):
            check_file(workflow, "workflow", str(folder))
            fields["workflow"] = Workflow.load(Path(folder) / workflow)
        super().__init__(name, **fields)

    @field_validator("workflow")
    @classmethod
    def _read_workflow(cls, given: Any) -> Any:
        if isinstance(given, WorkflowBuilder):
            return given.build()
        if isinstance(given, Mapping):
            return Workflow.from_dict(cast("Mapping[str, Any]", given))
        if isinstance(given, str):
            imported_function(given)
        elif not isinstance(given, Workflow) and not callable(given):
            raise ValueError(f"is a Workflow or a function that makes one for a row, got {type(given).__name__}")
        return given

    @field_serializer("workflow")
    def _describe_workflow(self, workflow: Any) -> Any:
        return describe(workflow) if isinstance(workflow, Workflow) else workflow

    def reads(self) -> tuple[str, ...]:
        if self.inputs is not None:
            return tuple(self.inputs)
        if isinstance(self.workflow, Workflow):
            return tuple(key for key, value in self.workflow.memory.items() if value is None)
        parameters = self._parameters
        if list(parameters) == [_ROW]:
            return ()
        return tuple(name for name, parameter in parameters.items() if parameter.default is parameter.empty)

    def needs(self) -> Columns:
        return None if self.inputs is None else tuple(self.inputs)

    def writes(self) -> dict[str, str]:
        return self._return_types() | ({MODEL_NAME: "string"} if self.add_model_name else {})

    def _return_types(self) -> dict[str, str]:
        """The columns of the return value, and their types."""
        keys = self._fixed.returned_keys if self._fixed is not None else ()
        if self.output is not None:
            return {self.output: self._type(keys[0]) if len(keys) == 1 and not self.scattered else ""}
        return {key: "" if self.scattered else self._type(key) for key in keys}

    def problems(self) -> list[str]:
        found: list[str] = []
        if self.llm is None:
            found.append('asks a model but has none; give it llm=LLM("provider/model")')
        if not self._return_types():
            found.append('has no column for the return value; give it output="…"')
        if self.scattered and len(self._return_types()) > 1:
            found.append('scatter needs one list, but several keys are returned; give it output="…" and one key')
        if self._fixed is not None:
            unknown = [name for name in self.inputs or () if name not in self._fixed.keys]
            listed = ", ".join(sorted(self._fixed.keys))
            found += [f"inputs: the workflow has no memory key {name!r} (it has: {listed})" for name in unknown]
            found += self._fixed.problems()
        return found

    async def process_row(self, row: Values, llm: Caller) -> Output:
        workflow = self._fixed
        longest = first_of(self.llm).max_tokens if self.llm is not None else None
        if workflow is None:
            made = await self._beside.run(self._make_workflow, row)
            value = await made.run(llm, longest=longest)
        else:
            names = self.inputs if self.inputs is not None else workflow.memory.keys() & row.keys()
            given = {name: row[name] for name in names}
            value = await workflow.run(llm, given, longest=longest)
        named = {MODEL_NAME: llm.label} if self.add_model_name else {}
        if self.scattered:
            return [{**made, **named} for made in self._rows(value)]
        return self._columns(value) | named

    def _make_workflow(self, row: Values) -> Workflow:
        """The workflow that the function makes for a row. Raises RowError for an unsound one."""
        given = row if self.inputs is None else {name: row[name] for name in self.inputs}
        parameters = self._parameters
        try:
            if list(parameters) == [_ROW]:
                made = self._function(given)
            elif any(one.kind is one.VAR_KEYWORD for one in inspect.signature(self._function).parameters.values()):
                made = self._function(**given)
            else:
                made = self._function(**{name: given[name] for name in parameters if name in given})
        except SpecError as error:
            raise RowError(f"the row's workflow is unsound: {error}", kind="workflow") from None
        made = made.build() if isinstance(made, WorkflowBuilder) else made
        if not isinstance(made, Workflow):
            problem = f"the function made a {type(made).__name__}, not a Workflow; return builder.build()"
            raise RowError(problem, kind="workflow")
        return made

    @property
    def _fixed(self) -> Workflow | None:
        return self.workflow if isinstance(self.workflow, Workflow) else None

    @cached_property
    def _function(self) -> Callable[..., Any]:
        return imported_function(self.workflow) if isinstance(self.workflow, str) else self.workflow

    @cached_property
    def _parameters(self) -> dict[str, inspect.Parameter]:
        """The function's parameters that may be given by name."""
        plain = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        return {name: one for name, one in inspect.signature(self._function).parameters.items() if one.kind in plain}

    def _type(self, key: str) -> str:
        """The Arrow type of a returned key; `""` where it is found from the values."""
        workflow = self._fixed
        if workflow is None or key in workflow.stacks:
            return ""
        structures = [task.schema for task in workflow.tasks for output in task.outputs if output.key == key]
        kinds = {"string" if one is None else arrow_type(one.json_schema, one.json_schema) for one in structures}
        return kinds.pop() if len(kinds) == 1 else ""

    def _columns(self, value: Any) -> dict[str, Any]:
        if self.output is not None:
            return {self.output: value}
        if self._fixed is not None and isinstance(self._fixed.return_value, tuple):
            return dict(value)
        return {next(iter(self._return_types())): value}

    def _rows(self, value: Any) -> Sequence[Values]:
        items: Any = as_json_list(value) if isinstance(value, str) else value
        if not isinstance(items, list):
            raise RowError(f"scatter needs a list, but the workflow returned a {type(value).__name__}", kind="parse")
        column = next(iter(self._return_types()))
        return [{column: item} for item in cast("list[Any]", items)]
