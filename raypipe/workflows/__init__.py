"""Several calls for one row, in Dria's words: a small graph of tasks with a memory, each task a question to the model.

Knows nothing of how rows are run. `WorkflowStep` makes a workflow a step of a pipeline.
"""

from __future__ import annotations

from raypipe.steps.llm.tools import CustomTool
from raypipe.workflows.builder import WorkflowBuilder
from raypipe.workflows.conditions import Condition, ConditionBuilder, Expression
from raypipe.workflows.http_tool import HttpRequestTool
from raypipe.workflows.memory import GetAll, Input, Insert, Output, Peek, Pop, Push, Read, Size, String, Write
from raypipe.workflows.prompts import get_abs_path
from raypipe.workflows.tasks import Edge, Operator, Task
from raypipe.workflows.workflow import Workflow
from raypipe.workflows.workflow_step import WorkflowStep

__all__ = [
    "Condition",
    "ConditionBuilder",
    "CustomTool",
    "Edge",
    "Expression",
    "GetAll",
    "HttpRequestTool",
    "Input",
    "Insert",
    "Operator",
    "Output",
    "Peek",
    "Pop",
    "Push",
    "Read",
    "Size",
    "String",
    "Task",
    "Workflow",
    "WorkflowBuilder",
    "WorkflowStep",
    "Write",
    "get_abs_path",
]
