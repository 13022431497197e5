"""Checks before a run whatever can be known before something is spent: models, engines, keys, caps."""

from __future__ import annotations

import os

from raypipe.contracts.model_pool import members_of
from raypipe.errors import SpecError, Violation
from raypipe.execution.context import RunOptions
from raypipe.models import check_model, check_request, is_held_key, missing_engine
from raypipe.models.prices import is_priced
from raypipe.plan.plan import Plan


def check_run(plan: Plan, options: RunOptions) -> None:
    """Raises SpecError with everything that is wrong with a run of `plan` with these options."""
    check_models(plan)
    problems = [*_engines(plan, options), *_caps(plan, options), *_environment(plan, options)]
    if problems:
        raise SpecError(violations=problems)


def check_models(plan: Plan) -> None:
    """Raises SpecError with everything about models that is wrong and can be known before a call."""
    problems = [problem for llm in plan.models for problem in check_model(llm)]
    if not problems:
        steps = plan.graph.steps.values()
        asked = [(llm, request) for step in steps for llm in members_of(step.llm) for request in step.requests()]
        problems = list(dict.fromkeys(problem for llm, request in asked for problem in check_request(llm, request)))
    if problems:
        raise SpecError(violations=problems)


def _engines(plan: Plan, options: RunOptions) -> list[Violation]:
    """Engines that are to run in this Python and are not installed, and servers without Ray."""
    problems = [problem for llm in plan.models for problem in missing_engine(llm)] if options.address is None else []
    if options.engine == "local":
        way = "serve: servers are started on Ray; run it there, or ask one that runs, with base_url and without serve"
        problems += [Violation(f"model {llm.label!r}", way) for llm in plan.models if llm.serve]
    return problems


def _caps(plan: Plan, options: RunOptions) -> list[Violation]:
    """Models of unknown price, where money is capped."""
    if options.caps.usd is None:
        return []
    problem = "has no known price, so its cost cannot be kept under a cap; give it price=(input, output), or --prices"
    unknown = [llm for llm in plan.models if not is_priced(llm)]
    return [Violation(f"model {llm.label!r}", problem) for llm in unknown]


def _environment(plan: Plan, options: RunOptions) -> list[Violation]:
    """Variables that are not set here, and keys that only this process has where workers run on a cluster."""
    problem = "is not set where the run starts; on a cluster set it before `ray start`"
    found = [Violation(f"environment variable {name!r}", problem) for name in options.env if not os.environ.get(name)]
    if options.cluster is not None:
        way = "was given a key that only this process has; set it in the cluster's environment, name it api_key_env"
        found += [Violation(f"model {llm.label!r}", way) for llm in plan.models if is_held_key(llm.api_key_env)]
    return found
