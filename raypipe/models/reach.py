"""Checks what the model of a pipeline file may reach: hosts, keys, and what an engine runs and reads.

Knows no HTTP and no engine. Outside of a file nothing is asked.
"""

from __future__ import annotations

import os
from dataclasses import replace

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, change_members, members_of
from raypipe.errors import SpecError
from raypipe.models import presets
from raypipe.models.vllm.trust import check_options
from raypipe.security.permissions import Permissions, current_permissions, host_of


def own_hosts(key_env: str) -> tuple[str, ...]:
    """Hosts of the provider that a variable holds a key of; `OPENAI_API_KEY_2` is one of OpenAI's, too."""
    hosts = dict(presets.KEYS_OF_RESOURCES)
    for preset in presets.PRESETS.values():
        if preset.key_env:
            hosts[preset.key_env] = (host_of(preset.base_url), *preset.hosts)
    found = [one for name, own in hosts.items() if key_env == name or key_env.startswith(f"{name}_") for one in own]
    return tuple(filter(None, found))


def reachable(llm: ModelOrPool, where: str) -> ModelOrPool:
    """The model, or pool of models, as a file may declare it. Raises SpecError for what it may not reach.

    One whose key is not there is asked without, also by workers that have it.
    """
    permissions = current_permissions()
    return llm if permissions is None else change_members(llm, lambda member: _reachable(member, permissions, where))


def _reachable(llm: LLM, permissions: Permissions, where: str) -> LLM:
    if llm.runs_here or llm.serve:
        check_options(llm, permissions, where)
    if llm.provider not in presets.PRESETS or llm.serve:
        return llm
    address, name = presets.base_url(llm), presets.key_env(llm)
    if llm.base_url is not None:
        permissions.check_host(llm.base_url, where)
    elif presets.environment_url(llm.provider):
        return llm
    if name is None:
        return llm
    address = llm.base_url or address
    try:
        permissions.check_key(name, address, own_hosts(name), where)
    except SpecError as error:
        if llm.api_key_env is None and not os.environ.get(name):
            return llm.model_copy(update={"api_key_env": ""})
        way_out = "" if llm.api_key_env else "; if the endpoint takes no key, write api_key_env: ''"
        raise SpecError(violations=[replace(one, problem=one.problem + way_out) for one in error.violations]) from None
    return llm


def key_pairs_of(llm: ModelOrPool) -> list[str]:
    """What `--allow-key` has to say for a pool of models where a file declares them: `NAME=HOST`."""
    found: list[str] = []
    for member in members_of(llm):
        if member.provider in presets.PRESETS and member.base_url and (name := presets.key_env(member)):
            found.append(f"{name}={host_of(member.base_url)}")
    return found
