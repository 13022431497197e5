"""`cluster.yaml` is one that Ray takes, costs little while nothing runs, and holds no key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

PATH = Path(__file__).parents[1] / "cluster.yaml"


@pytest.fixture
def plain() -> dict[str, Any]:
    return yaml.safe_load(PATH.read_text())


def test_ray_takes_it(plain: dict[str, Any]) -> None:
    """Without its provider's library and account, by the schema that Ray brings and the checks of `ray up`."""
    from raypipe.execution.ray.session import load

    load()
    from ray.autoscaler._private.util import prepare_config, validate_config

    complete = prepare_config(plain)
    validate_config(complete)
    assert complete["available_node_types"]["gpu"]["max_workers"] == 4


def test_it_goes_back_to_a_head_without_work(plain: dict[str, Any]) -> None:
    groups = plain["available_node_types"]
    assert groups[plain["head_node_type"]]["resources"] == {"CPU": 0, "GPU": 0}
    assert {group.get("min_workers", 0) for group in groups.values()} == {0}
    assert plain["idle_timeout_minutes"] <= 15


def test_it_names_keys_and_holds_none() -> None:
    said = re.findall(r"([A-Z_]*(?:KEY|TOKEN|SECRET)[A-Z_]*)=(\S+)", PATH.read_text())
    assert [name for name, value in said if not value.startswith("$(")] == []
