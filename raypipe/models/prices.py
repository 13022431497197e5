"""Knows what tokens cost, where that is known; an unknown price is never taken for zero."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

from raypipe.contracts.llm import LLM
from raypipe.contracts.model_pool import ModelOrPool, ModelPool, name_members
from raypipe.errors import SpecError
from raypipe.models.presets import PRESETS

_FREE = frozenset({"offline"})
_LOOK_EVERY_S = 300.0
"""How long a price of the table is used: some change with the time of day."""


class _Rates(NamedTuple):
    """What one call costs whose input has at most `up_to` tokens: US dollars, once and for each token."""

    up_to: float
    call: float
    input: float
    output: float
    cached: float
    """What is added for each token of the input that the provider had in its cache; it is negative."""


_looked_up: dict[tuple[str, str], tuple[float, tuple[_Rates, ...]]] = {}
"""By price list and model: when the table was read, and the rates; none where the table has no price."""


def cost_usd(llm: LLM, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float | None:
    """Price of one call with these tokens in US dollars by genai-prices' table; `None` where it has none.

    Where the price of a token depends on the length of the input, it is that of this call: a sum of calls costs the sum
    of their prices. `cached_tokens`: of the input, those that the provider had in its cache.
    """
    return Price(llm).usd(input_tokens, output_tokens, cached_tokens)


class Price:
    """What the calls of one model cost, worked out once as far as can be: it is asked for each call."""

    __slots__ = ("_each", "_listed", "_looked_at", "_rates")

    def __init__(self, llm: LLM) -> None:
        each = (0.0, 0.0) if llm.provider in _FREE or llm.runs_here else None
        each = each if llm.price is None else llm.price
        self._each = None if each is None else (each[0] / 1e6, each[1] / 1e6)
        preset = PRESETS.get(llm.provider)
        self._listed = None if preset is None or preset.price_list is None else (preset.price_list, llm.model)
        self._rates: tuple[_Rates, ...] = ()
        self._looked_at = float("-inf")

    def usd(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> float | None:
        """The price of one call, as `cost_usd`."""
        each = self._each
        if each is not None:
            return input_tokens * each[0] + output_tokens * each[1]
        if self._listed is None:
            return None
        now = time.monotonic()
        if now - self._looked_at > _LOOK_EVERY_S:
            self._rates, self._looked_at = _rates(*self._listed), now
        for rates in self._rates:
            if input_tokens <= rates.up_to:
                usd = rates.call + rates.input * input_tokens + rates.output * output_tokens
                return usd + rates.cached * min(cached_tokens, input_tokens) if cached_tokens else usd
        return None


def _rates(price_list: str, model: str) -> tuple[_Rates, ...]:
    """The rates of a model, those for short inputs first. The table takes half a millisecond for one call."""
    found = _looked_up.get((price_list, model))
    if found is not None and time.monotonic() < found[0] + _LOOK_EVERY_S:
        return found[1]
    from genai_prices import Usage, calc_price
    from genai_prices.types import TieredPrices

    def price(read: int, written: int = 0, cached: int = 0) -> Any:
        usage = Usage(input_tokens=read, output_tokens=written, cache_read_tokens=cached)
        return calc_price(usage, model_ref=model, provider_id=price_list)

    def usd(read: int, written: int = 0, cached: int = 0) -> float:
        return float(price(read, written, cached).total_price)

    rates: list[_Rates] = []
    try:
        listed = vars(price(0).model_price).values()
        starts = sorted({tier.start for one in listed if isinstance(one, TieredPrices) for tier in one.tiers})
        for start, up_to in zip([-1, *starts], [*starts, None], strict=True):
            least, most = start + 1, start + 1_000_001 if up_to is None else up_to
            each = (usd(most) - usd(least)) / (most - least)
            written = (usd(least, 1_000_000) - usd(least)) / 1e6
            cached = (usd(most, cached=most) - usd(most)) / most
            call = usd(least) - each * least
            rates.append(_Rates(float("inf") if up_to is None else up_to, call, each, written, cached))
    except LookupError:
        rates.clear()
    _looked_up[price_list, model] = time.monotonic(), tuple(rates)
    return tuple(rates)


_LIMITS = ("max_tokens", "max_completion_tokens")


def output_limit(llm: LLM, body: Mapping[str, Any]) -> int | None:
    """The most tokens that a call may write which is sent as `body`; `None` where nothing says it."""
    limit: Any = next((body[name] for name in _LIMITS if name in body), llm.max_tokens)
    if limit is None and isinstance(options := body.get("options"), dict):
        limit = cast("dict[str, Any]", options).get("num_predict")  # Ollama's
    if limit is None and llm.runs_here:
        limit = llm.engine.get("max_model_len")
    choices: Any = body.get("n", 1)
    return limit * (choices if type(choices) is int else 1) if type(limit) is int and limit > 0 else None


def is_priced(llm: LLM) -> bool:
    """Whether its price is known."""
    return cost_usd(llm, 1000, 1000) is not None


def known_cost_usd(llm: ModelOrPool, usd: float, by_model: Mapping[str, Mapping[str, float]]) -> float | None:
    """What calls cost that were priced one by one at `usd`; `None` where a model has no known price.

    `by_model` names the members of a pool of models that were asked.
    """
    asked = [llm] if isinstance(llm, LLM) else [one for name, one in name_members(llm).items() if name in by_model]
    return usd if all(map(is_priced, asked)) else None


def member_costs_usd(llm: ModelPool, by_model: Mapping[str, Mapping[str, float]]) -> dict[str, float | None]:
    """What the calls of each member of a pool of models cost, by its label."""
    members = name_members(llm).items()
    return {name: by_model.get(name, {}).get("cost_usd", 0.0) if is_priced(one) else None for name, one in members}


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
