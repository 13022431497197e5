"""Has a model put labels on a text.

Knows nothing of what the labels mean. The labels allowed are part of the schema that is sent, so a model that
decodes under it cannot leave them; from any other model a label of its own counts as the default label.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, ClassVar, cast

from pydantic import Field, create_model

from raypipe.contracts.llm import Caller
from raypipe.row import Values
from raypipe.steps.answers.structured import Structure, ask_structured, structure_of
from raypipe.steps.llm.llm_step import SchemaStep
from raypipe.steps.prompts.inputs import chat_request, text_of


class TextClassification(SchemaStep):
    """Reads `text` and writes `labels`: a text with `n=1`, else a list of at most `n` different texts."""

    read_columns: ClassVar[tuple[str, ...]] = ("text",)

    n: int = Field(default=1, ge=1)
    """How many labels a text gets."""
    context: str = ""
    """What the labels are for, as the model should know it."""
    available_labels: list[str] | dict[str, str] | None = None
    """The labels to choose from, or their descriptions by label; by default the model finds its own."""
    default_label: str | list[str] | None = "Unclassified"
    """The label of a text that none fits, and what stands for a label that is not among `available_labels`."""
    query_title: str = "Text"
    """The heading above the text in the prompt."""
    examples: list[str] | None = None
    """Texts with their labels, as the model should see them."""

    def answer_types(self) -> dict[str, str]:
        return {"labels": "string" if self.n == 1 else "list<string>"}

    def problems(self) -> list[str]:
        found = super().problems()
        allowed, defaults = self._labels
        if self.available_labels is not None and len(allowed) < self.n:
            problem = f"puts {self.n} labels on a text, but available_labels has {len(allowed)}"
            found.append(f"{problem}; name more labels or lower n")
        if self.n == 1 and len(defaults) > 1:
            found.append("with n=1 default_label is one label, not a list; name one or raise n")
        return found

    async def answer(self, row: Values, llm: Caller, sample: int) -> dict[str, Any]:
        prompt = self._prompt(text_of(row, "text"))
        allowed, defaults = self._labels
        structure = _structure((*allowed, *defaults) if allowed else (), self.n == 1)
        value, _ = await ask_structured(llm, chat_request(prompt), structure, sample)
        found = [value["labels"]] if self.n == 1 else cast("list[str]", value["labels"])
        labels = list(dict.fromkeys(known for label in found or [""] for known in self._known(label)))[: self.n]
        return {"labels": labels if self.n > 1 else next(iter(labels), None)}

    @property
    def _labels(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The labels to choose from, where there are any, and those that stand for others."""
        allowed = tuple(dict.fromkeys(self.available_labels or ()))
        default = self.default_label
        return allowed, (default,) if isinstance(default, str) else tuple(default or ())

    def _known(self, label: str) -> tuple[str, ...]:
        """The label as it is declared, whatever its case; the default for one that is not."""
        bare, (allowed, defaults) = label.strip(), self._labels
        if not allowed:
            return (bare,) if bare else defaults
        declared = {name.strip().casefold(): name for name in reversed((*allowed, *defaults))}
        found = declared.get(bare.casefold())
        return defaults if found is None else (found,)

    def _prompt(self, text: str) -> str:
        form = '"…"' if self.n == 1 else '["…"]'
        parts = [
            f"Classify the text under the heading {self.query_title!r}. {self.context}".strip(),
            self._choice(),
            "## Examples\n" + "\n\n".join(self.examples) if self.examples else "",
            f"## {self.query_title}\n{text}",
            f'Answer as JSON and nothing else: {{"labels": {form}}}',
        ]
        return "\n\n".join(part for part in parts if part)

    def _choice(self) -> str:
        wanted = "the label that fits best" if self.n == 1 else f"the {self.n} labels that fit best, the best first"
        allowed, defaults = self._labels
        otherwise = f" If no label fits, answer {' and '.join(map(repr, defaults))}." if defaults else ""
        if not allowed:
            return f"Find {wanted}; a label is one word or a short name.{otherwise}"
        described = self.available_labels if isinstance(self.available_labels, dict) else {}
        lines = [f"- {label}: {described[label]}" if described.get(label) else f"- {label}" for label in allowed]
        return "\n".join([f"Choose from this list {wanted}.{otherwise}", *lines])


@lru_cache(maxsize=64)
def _structure(labels: tuple[str, ...], is_one: bool) -> Structure:
    """What is sent allows `labels` alone; what comes back may be any text."""
    label: dict[str, Any] = {"enum": list(dict.fromkeys(labels))} if labels else {}
    field = Field(json_schema_extra=label if is_one else {"items": {"type": "string"} | label})
    return structure_of(create_model("Labels", labels=(str if is_one else list[str], field)))
