"""The catalogue of models by the names that Dria gave them, each with the uri of the model that answers here.

Knows nothing of keys or addresses; `Dria(models={…})` replaces the `LLM` of one.
"""

from __future__ import annotations

from enum import StrEnum

from raypipe.dria.tasks import Step, TaskInput, TaskResult

__all__ = ["CallbackType", "Model", "Step", "TaskInput", "TaskResult"]


class Model(StrEnum):
    """Dria's models. The value is the uri of the `LLM` that answers for it; names of equal value are one model.

    The name of a group (`OLLAMA`, `SMALL`, …), which meant any of its models, is one of them here.
    """

    # On the user's own machine, by Ollama.
    NOUS_THETA = "ollama/finalend/hermes-3-llama-3.1:8b-q8_0"
    PHI3_MEDIUM = "ollama/phi3:14b-medium-4k-instruct-q4_1"
    PHI3_MEDIUM_128K = "ollama/phi3:14b-medium-128k-instruct-q4_1"
    PHI3_5_MINI = "ollama/phi3.5:3.8b"
    PHI3_5_MINI_OL = "ollama/phi3.5:3.8b"
    PHI3_5_MINI_FP16 = "ollama/phi3.5:3.8b-mini-instruct-fp16"
    GEMMA2_9B = "ollama/gemma2:9b-instruct-q8_0"
    GEMMA2_9B_OL = "ollama/gemma2:9b-instruct-q8_0"
    GEMMA2_9B_FP16 = "ollama/gemma2:9b-instruct-fp16"
    LLAMA3_1 = "ollama/llama3.1:latest"
    LLAMA3_1_8BQ8 = "ollama/llama3.1:8b-instruct-q8_0"
    LLAMA3_1_8B_FP16 = "ollama/llama3.1:8b-instruct-fp16"
    LLAMA3_1_70B = "ollama/llama3.1:70b-instruct-q4_0"
    LLAMA3_1_70B_OL = "ollama/llama3.1:70b-instruct-q4_0"
    LLAMA3_1_70BQ8 = "ollama/llama3.1:70b-instruct-q8_0"
    LLAMA3_2_1B = "ollama/llama3.2:1b"
    LLAMA3_2_3B = "ollama/llama3.2:3b"
    LLAMA3_3_70B = "ollama/llama3.3:70b"
    LLAMA3_1_8BTextQ4KM = "ollama/llama3.1:8b-text-q4_K_M"
    LLAMA3_1_8BTextQ8 = "ollama/llama3.1:8b-text-q8_0"
    LLAMA3_1_70BTextQ4KM = "ollama/llama3.1:70b-text-q4_0"
    LLAMA3_2_1BTextQ4KM = "ollama/llama3.2:1b-text-q4_K_M"
    QWEN_QWQ = "ollama/qwq"
    QWEN_QWQ_OL = "ollama/qwq"
    QWEN2_5_7B = "ollama/qwen2.5:7b-instruct-q5_0"
    QWEN2_5_7B_OL = "ollama/qwen2.5:7b-instruct-q5_0"
    QWEN2_5_7B_FP16 = "ollama/qwen2.5:7b-instruct-fp16"
    QWEN2_5_32B_FP16 = "ollama/qwen2.5:32b-instruct-fp16"
    QWEN2_5_CODER_1_5B = "ollama/qwen2.5-coder:1.5b"
    QWEN2_5_CODER_7B_OL = "ollama/qwen2.5-coder:7b"
    QWEN2_5_CODER_7B_Q8 = "ollama/qwen2.5-coder:7b-instruct-q8_0"
    QWEN2_5_CODER_7B_FP16 = "ollama/qwen2.5-coder:7b-instruct-fp16"
    DEEPSEEK_CODER_6_7B = "ollama/deepseek-coder:6.7b"
    DEEPSEEK_R1 = "ollama/deepseek-r1"
    DEEPSEEK_R1_1_5B = "ollama/deepseek-r1:1.5b"
    DEEPSEEK_R1_7B = "ollama/deepseek-r1:7b"
    DEEPSEEK_R1_8B = "ollama/deepseek-r1:8b"
    DEEPSEEK_R1_14B = "ollama/deepseek-r1:14b"
    DEEPSEEK_R1_32B = "ollama/deepseek-r1:32b"
    DEEPSEEK_R1_70B = "ollama/deepseek-r1:70b"
    MIXTRAL_8_7B = "ollama/mixtral:8x7b"

    # By OpenRouter.
    QWEN_QWQ_OR = "openrouter/qwen/qwq-32b-preview"
    DEEPSEEK_CHAT_OR = "openrouter/deepseek/deepseek-chat"
    DEEPSEEK_2_5_OR = "openrouter/deepseek/deepseek-chat"
    DEEPSEEK_R1_OR = "openrouter/deepseek/deepseek-r1"
    DEEPSEEK_R1_70B_OR = "openrouter/deepseek/deepseek-r1-distill-llama-70b"
    LLAMA_3_1_8B_OR = "openrouter/meta-llama/llama-3.1-8b-instruct"
    LLAMA_3_1_70B_OR = "openrouter/meta-llama/llama-3.1-70b-instruct"
    LLAMA_3_1_405B_OR = "openrouter/meta-llama/llama-3.1-405b-instruct"
    LLAMA_3_1_70B_OR_F = "openrouter/meta-llama/llama-3.1-70b-instruct:free"
    LLAMA_3_3_70B_OR = "openrouter/meta-llama/llama-3.3-70b-instruct"
    ANTHROPIC_SONNET_3_5_OR = "openrouter/anthropic/claude-3.5-sonnet:beta"
    ANTHROPIC_HAIKU_3_5_OR = "openrouter/anthropic/claude-3-5-haiku-20241022:beta"
    QWEN2_5_72B_OR = "openrouter/qwen/qwen-2.5-72b-instruct"
    QWEN2_5_7B_OR = "openrouter/qwen/qwen-2.5-7b-instruct"
    QWEN2_5_CODER_32B_OR = "openrouter/qwen/qwen-2.5-coder-32b-instruct"
    QWEN2_5_EVA_32B_OR = "openrouter/eva-unit-01/eva-qwen-2.5-32b"
    NOUS_HERMES_405B_OR = "openrouter/nousresearch/hermes-3-llama-3.1-405b"

    # By Google.
    GEMINI_15_PRO = "gemini/gemini-1.5-pro"
    GEMINI_15_FLASH = "gemini/gemini-1.5-flash"
    GEMINI_20_FLASH = "gemini/gemini-2.0-flash-exp"
    GEMINI_10_PRO = "gemini/gemini-1.0-pro"
    GEMMA_2_2B_IT = "gemini/gemma-2-2b-it"
    GEMMA_2_9B_IT = "gemini/gemma-2-9b-it"
    GEMMA_2_27B_IT = "gemini/gemma-2-27b-it"

    # By OpenAI.
    GPT4_TURBO = "openai/gpt-4-turbo"
    GPT4O = "openai/gpt-4o"
    GPT4O_MINI = "openai/gpt-4o-mini"
    O1_MINI = "openai/o1-mini"
    O1_PREVIEW = "openai/o1-preview"

    # Groups.
    OLLAMA = LLAMA3_1
    OPENAI = GPT4O_MINI
    GEMINI = GEMINI_15_FLASH
    OPENROUTER = LLAMA_3_3_70B_OR
    CODER = QWEN2_5_CODER_7B_OL
    SMALL = LLAMA3_1_8B_FP16
    MID = QWEN2_5_32B_FP16
    LARGE = GPT4O
    REASONING = DEEPSEEK_R1_32B


class CallbackType(StrEnum):
    """How a step's answers become tasks of the next step; see `StepTemplate`."""

    SCATTER = "scatter"
    BROADCAST = "broadcast"
    AGGREGATE = "aggregate"
    DEFAULT = "default"
    CUSTOM = "custom"
