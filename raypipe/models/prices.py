"""Knows what tokens cost, where that is known; an unknown price is never taken for zero."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, ModelPool, name_members
from raypipe.errors import SpecError
from raypipe.models.presets import PRESETS

_FREE = frozenset({"offline"})


def cost_usd(llm: LLM, input_tokens: int, output_tokens: int) -> float | None:
    """Price of these tokens in US dollars by genai-prices' table; `None` where it has none."""
    if llm.price is not None:
        return (input_tokens * llm.price[0] + output_tokens * llm.price[1]) / 1e6
    if llm.provider in _FREE or llm.runs_here:
        return 0.0
    preset = PRESETS.get(llm.provider)
    if preset is None or preset.price_list is None:
        return None
    from genai_prices import Usage, calc_price

    try:
        price = calc_price(
            Usage(input_tokens=input_tokens, output_tokens=output_tokens),
            model_ref=llm.model,
            provider_id=preset.price_list,
        )
    except LookupError:
        return None
    return float(price.total_price)


def pool_cost_usd(
    llm: ModelOrPool, input_tokens: int, output_tokens: int, by_model: Mapping[str, Mapping[str, int]]
) -> float | None:
    """Price of these tokens, of which `by_model` says what each member of a pool of models took."""
    if isinstance(llm, LLM):
        return cost_usd(llm, input_tokens, output_tokens)
    costs = member_costs_usd(llm, by_model)
    return sum_usd([costs[name] for name in by_model])


def member_costs_usd(llm: ModelPool, by_model: Mapping[str, Mapping[str, int]]) -> dict[str, float | None]:
    """Price of the tokens of each member of a pool of models, by its label."""
    costs: dict[str, float | None] = {}
    for name, member in name_members(llm).items():
        counts = by_model.get(name, {})
        costs[name] = cost_usd(member, counts.get("input_tokens", 0), counts.get("output_tokens", 0))
    return costs


def sum_usd(costs: Sequence[float | None]) -> float | None:
    """The sum, or `None` where one is not known."""
    known = [cost for cost in costs if cost is not None]
    return sum(known, 0.0) if len(known) == len(costs) else None


def read_prices(path: Path) -> dict[str, tuple[float, float]]:
    """Prices by model from a YAML file: `provider/model: [input, output]`, US dollars for a million tokens.

    Raises SpecError.
    """
    import yaml

    try:
        content: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise SpecError.of(f"prices {str(path)!r}", f"cannot be read: {said}") from None
    problem = "must be a mapping of provider/model to [input, output], US dollars for a million tokens"
    prices = cast("dict[Any, Any]", content) if isinstance(content, dict) else {None: None}
    found: dict[str, tuple[float, float]] = {}
    for name, price in prices.items():
        numbers = cast("list[Any]", price) if isinstance(price, list) else []
        is_price = len(numbers) == 2 and all(type(one) in (int, float) and one >= 0 for one in numbers)
        if not isinstance(name, str) or not is_price:
            where = f"prices {str(path)!r}" + (f", {name!r}" if name is not None else "")
            raise SpecError.of(where, problem)
        found[name] = (float(numbers[0]), float(numbers[1]))
    return found
