"""Small steps in Dria's words, and the clients that carry them out."""

from __future__ import annotations

from collections import Counter
from typing import Any

from raypipe.dria import Dria, PipelineBuilder, StepTemplate
from raypipe.models import LLM
from raypipe.workflows import Workflow, WorkflowBuilder, Write
from tests.loopback import Loopback


def asking(prompt: str, **memory: Any) -> Workflow:
    """A workflow of one question."""
    builder = WorkflowBuilder(**memory).generative_step(prompt, outputs=[Write.new("text")])
    return builder.set_return_value("text").build()


class Ask(StepTemplate):
    """Asks `q` as it stands."""

    def create_workflow(self, q: str) -> Workflow:
        return asking("{{q}}", q=q)


class AskResult(StepTemplate):
    """Asks about what the step before was answered."""

    def create_workflow(self, result: Any) -> Workflow:
        return asking("about {{result}}", result=result)


class AskTwo(StepTemplate):
    def create_workflow(self, a: str, b: str = "none") -> Workflow:
        return asking("{{a}} and {{b}}", a=a, b=b)


def prompt_of(body: dict[str, Any]) -> str:
    return body["messages"][-1]["content"]


def echo(body: dict[str, Any]) -> str:
    """What is asked as it stands, which may be JSON; a question about it is answered in words."""
    prompt = prompt_of(body)
    return f"<{prompt}>" if prompt.startswith(("about", "say")) else prompt


def client(server: Loopback, folder: Any, **options: Any) -> Dria:
    llm = LLM("openai/loopback", base_url=server.base_url, max_tries=1)
    return Dria(**{"default": llm, "engine": "local", "out": folder} | options)


def built(dria: Dria, rows: list[dict[str, Any]], *steps: StepTemplate) -> Any:
    builder = PipelineBuilder(dria).input(rows)
    for step in steps:
        builder << step
    return builder.build()


def prompts(server: Loopback) -> Counter[str]:
    return Counter(prompt_of(request.body) for request in server.requests)
