"""Checks before a run whatever can be known before something is spent: models, engines, keys, caps."""

from __future__ import annotations

import os
from typing import Any

from raypipe.contracts.model_pool import members_of
from raypipe.errors import SpecError, Violation
from raypipe.execution.context import RunOptions
from raypipe.models import check_model, check_request, is_bounded, is_held_key, missing_engine
from raypipe.models.prices import cost_usd, is_priced
from raypipe.plan.plan import Plan


def check_run(plan: Plan, options: RunOptions) -> None:
    """Raises SpecError with everything that is wrong with a run of `plan` with these options."""
    check_models(plan)
    problems = [*_engines(plan, options), *_caps(plan, options), *_rates(options), *_environment(plan, options)]
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
    """Models whose calls no cap can hold: of unknown price where money is capped, or of unbounded length.

    A limit that were sent beside what identifies a call would cut answers and keep them under the keys of whole ones.
    """
    caps, found = options.caps, list[Violation]()
    if caps.usd is not None:
        problem = "has no known price, so its cost cannot be kept under a cap; give it price=(input, output), or "
        unknown = [llm for llm in plan.models if not is_priced(llm)]
        found += [Violation(f"model {llm.label!r}", f"{problem}--prices") for llm in unknown]
    if caps.usd is None and caps.tokens is None:
        return found
    cap = f"max_cost_usd={caps.usd:g}" if caps.tokens is None else f"max_tokens={caps.tokens} of the run"
    for name, step in plan.graph.steps.items():
        for llm in members_of(step.llm):
            if is_bounded(llm, step.requests()) or (caps.tokens is None and cost_usd(llm, 0, 1000) in (0.0, None)):
                continue
            way = f'LLM("{llm.uri}", max_tokens=1024), or --set {name}.llm.max_tokens=1024'
            problem = f"has no max_tokens, so nobody knows what one call may take and {cap} cannot be kept; write {way}"
            found.append(Violation(f"step {name!r}, model {llm.label!r}", problem))
    return found


def _rates(options: RunOptions) -> list[Violation]:
    """A share of failed rows that is none."""
    rate: Any = options.max_failure_rate
    if rate is None or (type(rate) in (int, float) and 0 < rate <= 1):
        return []
    problem = f"got {rate!r}; give the share of rows that may fail, above 0 and up to 1, or None: all may"
    return [Violation("max_failure_rate", problem)]


def _environment(plan: Plan, options: RunOptions) -> list[Violation]:
    """Variables that are not set here, and keys that only this process has where workers run on a cluster."""
    problem = "is not set where the run starts; on a cluster set it before `ray start`"
    found = [Violation(f"environment variable {name!r}", problem) for name in options.env if not os.environ.get(name)]
    if options.cluster is not None:
        way = "was given a key that only this process has; set it in the cluster's environment, name it api_key_env"
        found += [Violation(f"model {llm.label!r}", way) for llm in plan.models if is_held_key(llm.api_key_env)]
    return found
