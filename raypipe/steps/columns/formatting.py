"""Formats answers for training: one answer as a conversation, or the best and the worst as a preference.

Knows nothing of who answered and who rated. The columns are those of the `alignment-handbook` datasets, such as
HuggingFaceH4/ultrachat_200k and HuggingFaceH4/ultrafeedback_binarized.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from raypipe.contracts.step import Output, Runs, Step
from raypipe.errors import RowError
from raypipe.row import Values
from raypipe.steps.prompts.to_text import quoted

Messages = list[Mapping[str, Any]]


class FormatTextGenerationSFT(Step):
    """Writes `prompt`, `prompt_id` (its SHA-256) and `messages` from `instruction` and `generation`.

    A `system_prompt` that is there and not empty is the first message. A row whose instruction or generation is not
    text fails.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    read_columns: ClassVar[tuple[str, ...]] = ("instruction", "generation")
    written_columns: ClassVar[Mapping[str, str]] = {"prompt": "string", "prompt_id": "string", "messages": ""}
    needs_whole_row: ClassVar[bool] = True

    def process_row_in_thread(self, row: Values) -> Output:
        prompt, messages = _begin(row, self.read_columns[0])
        answer = {"role": "assistant", "content": _check_text("generation", row["generation"])}
        return {**prompt, "messages": [*messages, answer]}


class FormatChatGenerationSFT(FormatTextGenerationSFT):
    """Writes `prompt` (the user's first message) and `prompt_id` (its SHA-256), and adds `generation` to `messages`.

    A row without a message of the user, or whose generation is not text, fails.
    """

    read_columns: ClassVar[tuple[str, ...]] = ("messages", "generation")
    needs_whole_row: ClassVar[bool] = False


class FormatTextGenerationDPO(Step):
    """Writes `prompt`, `prompt_id` (its SHA-256), and the best and the worst generation as `chosen` and `rejected`.

    Both are conversations that begin with `instruction`; of equal `ratings` the first counts. Beside them stand
    `chosen_rating` and `rejected_rating`, and `chosen_model` and `rejected_model`, which are null without the column
    `generation_models`. A generation without text or rating is left out. A row whose generations are equally good
    holds no preference and fails. A `system_prompt` that is there and not empty is the first message.
    """

    runs: ClassVar[Runs] = Runs.THREAD
    read_columns: ClassVar[tuple[str, ...]] = ("instruction", "generations", "ratings")
    written_columns: ClassVar[Mapping[str, str]] = {
        "prompt": "string",
        "prompt_id": "string",
        "chosen": "",
        "chosen_model": "string",
        "chosen_rating": "double",
        "rejected": "",
        "rejected_model": "string",
        "rejected_rating": "double",
    }
    needs_whole_row: ClassVar[bool] = True

    def process_row_in_thread(self, row: Values) -> Output:
        prompt, messages = _begin(row, self.read_columns[0])
        texts = _check_list("generations", row["generations"])
        ratings = _check_list("ratings", row["ratings"], len(texts))
        models = row.get("generation_models")
        names = [None] * len(texts) if models is None else _check_list("generation_models", models, len(texts))
        best, worst = _best_and_worst(texts, ratings)
        made: dict[str, Any] = {**prompt}
        for end, index in (("chosen", best), ("rejected", worst)):
            answer = {"role": "assistant", "content": _check_text("generations", texts[index])}
            made[end] = [*messages, answer]
            made[f"{end}_model"] = names[index]
            made[f"{end}_rating"] = ratings[index]
        return made


class FormatChatGenerationDPO(FormatTextGenerationDPO):
    """As `FormatTextGenerationDPO`, for `generations` that answer the conversation in `messages`."""

    read_columns: ClassVar[tuple[str, ...]] = ("messages", "generations", "ratings")


def _begin(row: Values, column: str) -> tuple[dict[str, Any], Messages]:
    """The columns of the prompt, and the messages that the answer follows, from `instruction` or `messages`."""
    if column == "messages":
        messages = _check_messages(row[column])
        asked = next((message["content"] for message in messages if message["role"] == "user"), None)
        if not any(message["role"] == "user" for message in messages):
            roles = ", ".join(repr(message["role"]) for message in messages) or "none"
            raise RowError(f"column {column!r} has no message of the user (roles: {roles})", kind="messages")
    else:
        asked, system = row[column], row.get("system_prompt")
        messages: Messages = [{"role": "system", "content": system}] if isinstance(system, str) and system else []
        messages.append({"role": "user", "content": asked})
    text = _check_text(column, asked)
    return {"prompt": text, "prompt_id": hashlib.sha256(text.encode()).hexdigest()}, messages


def _best_and_worst(texts: Sequence[Any], ratings: Sequence[Any]) -> tuple[int, int]:
    """Indices of the first highest and the first lowest rating. Raises RowError where none is preferred."""
    rated: dict[int, float] = {}
    for index, (text, rating) in enumerate(zip(texts, ratings, strict=True)):
        if rating is None:
            continue
        if isinstance(rating, bool) or not isinstance(rating, int | float) or not math.isfinite(rating):
            raise RowError(f"column 'ratings' has {quoted(rating)}, which is not a number", kind="score")
        if text is not None:
            rated[index] = float(rating)
    if len(rated) < 2:
        raise RowError(f"{len(rated)} of {len(texts)} generations have a rating; a preference needs two", kind="tie")
    best, worst = max(rated, key=rated.__getitem__), min(rated, key=rated.__getitem__)
    if rated[best] == rated[worst]:
        raise RowError(f"all {len(rated)} generations are rated {rated[best]:g}, so none is preferred", kind="tie")
    if texts[best] == texts[worst]:
        raise RowError("the best and the worst generation are the same text, so none is preferred", kind="tie")
    return best, worst


def _check_messages(value: Any) -> Messages:
    items = _check_list("messages", value)
    for item in items:
        if not isinstance(item, Mapping) or not {"role", "content"} <= item.keys():
            problem = f"column 'messages' has {quoted(item)}, which is not a message; write {{'role': …, 'content': …}}"
            raise RowError(problem, kind="messages")
    return items


def _check_list(column: str, value: Any, size: int | None = None) -> list[Any]:
    """The list in a column. Raises RowError for what is no list, or has not `size` items."""
    if not isinstance(value, list):
        raise RowError(f"column {column!r} is not a list but {quoted(value)}", kind="list")
    items = cast("list[Any]", value)
    if size is not None and len(items) != size:
        raise RowError(f"column {column!r} has {len(items)} items for {size} generations", kind="list")
    return items


def _check_text(column: str, value: Any) -> str:
    if not isinstance(value, str):
        raise RowError(f"column {column!r} has {quoted(value)} where text is needed", kind="text")
    return value
