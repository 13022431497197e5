"""I format answers for training: one answer as a conversation, or the best and the worst as a preference.

I do not know who answered and who rated. The columns are those of the `alignment-handbook` datasets, such as
HuggingFaceH4/ultrachat_200k and HuggingFaceH4/ultrafeedback_binarized.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from raypipe.contracts.step import Columns, Output, Runs, Step
from raypipe.errors import RowError
from raypipe.row import Values

Messages = list[Mapping[str, Any]]

_PROMPT = {"prompt": "string", "prompt_id": "string"}
_PREFERENCE = {
    "chosen": "",
    "chosen_model": "string",
    "chosen_rating": "double",
    "rejected": "",
    "rejected_model": "string",
    "rejected_rating": "double",
}


class FormatTextGenerationSFT(Step):
    """Writes `prompt`, `prompt_id` (its SHA-256) and `messages` from `instruction` and `generation`.

    A `system_prompt` that is there and not empty is the first message.
    """

    runs: ClassVar[Runs] = Runs.THREAD

    def reads(self) -> tuple[str, ...]:
        return ("instruction", "generation")

    def needs(self) -> Columns:
        return None

    def writes(self) -> dict[str, str]:
        return {**_PROMPT, "messages": ""}

    def process_row_in_thread(self, row: Values) -> Output:
        asked = _instructed(row)
        return _prompt(row["instruction"]) | {"messages": [*asked, _answer("generation", row["generation"])]}


class FormatChatGenerationSFT(Step):
    """Writes `prompt` (the user's first message) and `prompt_id` (its SHA-256), and adds `generation` to `messages`."""

    runs: ClassVar[Runs] = Runs.THREAD

    def reads(self) -> tuple[str, ...]:
        return ("messages", "generation")

    def writes(self) -> dict[str, str]:
        return {**_PROMPT, "messages": ""}

    def process_row_in_thread(self, row: Values) -> Output:
        asked = _conversation(row["messages"])
        return _prompt(_first_question(asked)) | {"messages": [*asked, _answer("generation", row["generation"])]}


class FormatTextGenerationDPO(Step):
    """Writes `prompt`, `prompt_id` (its SHA-256), and the best and the worst generation as `chosen` and `rejected`.

    Both are conversations that begin with `instruction`; of equal `ratings` the first counts. Beside them stand
    `chosen_rating` and `rejected_rating`, and `chosen_model` and `rejected_model`, which are null without the column
    `generation_models`. A generation without text or rating is left out. A row whose generations are equally good is
    no preference: it fails. A `system_prompt` that is there and not empty is the first message.
    """

    runs: ClassVar[Runs] = Runs.THREAD

    def reads(self) -> tuple[str, ...]:
        return ("instruction", "generations", "ratings")

    def needs(self) -> Columns:
        return None

    def writes(self) -> dict[str, str]:
        return _PROMPT | _PREFERENCE

    def process_row_in_thread(self, row: Values) -> Output:
        asked = _instructed(row)
        return _prompt(row["instruction"]) | _preference(asked, row)


class FormatChatGenerationDPO(FormatTextGenerationDPO):
    """As `FormatTextGenerationDPO`, for `generations` that answer the conversation in `messages`."""

    def reads(self) -> tuple[str, ...]:
        return ("messages", "generations", "ratings")

    def process_row_in_thread(self, row: Values) -> Output:
        asked = _conversation(row["messages"])
        return _prompt(_first_question(asked)) | _preference(asked, row)


def _prompt(text: str) -> dict[str, Any]:
    return {"prompt": text, "prompt_id": hashlib.sha256(text.encode()).hexdigest()}


def _answer(column: str, text: Any) -> dict[str, str]:
    return {"role": "assistant", "content": _text(column, text)}


def _instructed(row: Values) -> Messages:
    """What was asked, as messages."""
    asked: Messages = [{"role": "user", "content": _text("instruction", row["instruction"])}]
    system = row.get("system_prompt")
    return [{"role": "system", "content": system}, *asked] if isinstance(system, str) and system else asked


def _conversation(messages: Any) -> Messages:
    items = _list("messages", messages)
    for item in items:
        if not isinstance(item, Mapping) or not {"role", "content"} <= item.keys():
            problem = f"column 'messages' has {_short(item)}, which is no message; write {{'role': …, 'content': …}}"
            raise RowError(problem, kind="messages")
    return items


def _first_question(messages: Messages) -> str:
    for message in messages:
        if message["role"] == "user":
            return _text("messages", message["content"])
    roles = ", ".join(repr(message["role"]) for message in messages) or "none"
    raise RowError(f"column 'messages' has no message of the user (roles: {roles})", kind="messages")


def _preference(asked: Messages, row: Values) -> dict[str, Any]:
    texts = _list("generations", row["generations"])
    ratings = _as_many("ratings", row["ratings"], texts)
    models = row.get("generation_models")
    names = [None] * len(texts) if models is None else _as_many("generation_models", models, texts)
    best, worst = _best_and_worst(texts, [_rating(rating) for rating in ratings])
    made: dict[str, Any] = {}
    for end, index in (("chosen", best), ("rejected", worst)):
        made[end] = [*asked, _answer("generations", texts[index])]
        made[f"{end}_model"] = names[index]
        made[f"{end}_rating"] = ratings[index]
    return made


def _best_and_worst(texts: Sequence[Any], ratings: Sequence[float | None]) -> tuple[int, int]:
    """Places of the first highest and the first lowest rating."""
    rated = {
        index: rating
        for index, (text, rating) in enumerate(zip(texts, ratings, strict=True))
        if text is not None and rating is not None
    }
    if len(rated) < 2:
        raise RowError(f"{len(rated)} of {len(texts)} generations have a rating; a preference needs two", kind="tie")
    best, worst = max(rated, key=rated.__getitem__), min(rated, key=rated.__getitem__)
    if rated[best] == rated[worst]:
        raise RowError(f"all {len(rated)} generations are rated {rated[best]:g}, so none is preferred", kind="tie")
    if texts[best] == texts[worst]:
        raise RowError("the best and the worst generation are the same text, so none is preferred", kind="tie")
    return best, worst


def _rating(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RowError(f"column 'ratings' has {_short(value)}, which is no number", kind="score")
    return float(value)


def _as_many(column: str, value: Any, texts: Sequence[Any]) -> list[Any]:
    items = _list(column, value)
    if len(items) != len(texts):
        raise RowError(f"column {column!r} has {len(items)} items for {len(texts)} generations", kind="list")
    return items


def _list(column: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(f"column {column!r} is no list but {_short(value)}", kind="list")
    return cast("list[Any]", value)


def _text(column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError(f"column {column!r} has {_short(value)} where a text is needed", kind="text")
    return value


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
