"""A LoRA adapter that is not there is told before an engine is loaded."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raypipe.contracts.llm import LLM
from raypipe.errors import InfrastructureError
from raypipe.models import open_model
from raypipe.models.vllm.lora import adapter_folder


def model(lora: object) -> LLM:
    return LLM("vllm/no/such-base", lora=str(lora))


def refusal(lora: object) -> str:
    with pytest.raises(InfrastructureError, match="model 'vllm/no/such-base': lora=") as caught:
        asyncio.run(open_model(model(lora)).open())
    return str(caught.value)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "is no folder (relative paths start at" in refusal(tmp_path / "none")
    assert "is no folder" in refusal("./adapters/none")


def test_a_folder_without_an_adapter_is_told(tmp_path: Path) -> None:
    assert "has no adapter_config.json, so it is no LoRA adapter" in refusal(tmp_path)


def test_an_adapter_that_the_hub_does_not_give_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    assert "cannot be had from the Hugging Face hub: LocalEntryNotFoundError" in refusal("someone/adapter")


def test_a_folder_with_an_adapter_is_taken(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert adapter_folder(model(tmp_path)) == str(tmp_path.resolve())
    assert adapter_folder(LLM("vllm/no/such-base")) is None
