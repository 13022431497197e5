"""What stands before a user's turn, in the words of a model's chat template."""

from __future__ import annotations

import pickle

import pytest

from raypipe.errors import RowError, SpecError
from raypipe.steps.prompts.pre_query import PRE_QUERIES, pre_query

SAID = [
    {"role": "system", "content": "Be {brief}."},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
]
LLAMA = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n"
QWEN = "<|im_start|>user\n"
PHI = "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}<|user|>\n"


@pytest.mark.parametrize(
    ("template", "begins", "goes_on", "end"),
    [
        (
            "llama3",
            LLAMA,
            "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe {brief}.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nSo.<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n",
            "<|eot_id|>",
        ),
        (
            "qwen2",
            QWEN,
            "<|im_start|>system\nBe {brief}.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
            "<|im_start|>assistant\nSo.<|im_end|>\n<|im_start|>user\n",
            "<|im_end|>",
        ),
        (
            PHI,
            "<|user|>\n",
            "<|system|>\nBe {brief}.<|end|>\n<|user|>\nWhy?<|end|>\n<|assistant|>\nSo.<|end|>\n<|user|>\n",
            "",
        ),
    ],
)
def test_a_conversation_is_written_up_to_the_user(template, begins, goes_on, end):
    found = pickle.loads(pickle.dumps(pre_query(template)))
    assert (found.prompt([]), found.prompt(SAID)) == (begins, goes_on)
    assert (found.end, found.writes_turns) == (end, True)


def test_a_known_beginning_is_its_template():
    assert pre_query(QWEN) is PRE_QUERIES["qwen2"]
    assert pre_query(LLAMA) is PRE_QUERIES["llama3"]


def test_a_beginning_alone_writes_no_turns():
    found = pre_query("<|user|>\n")
    assert (found.prompt([]), found.end, found.writes_turns) == ("<|user|>\n", "", False)
    with pytest.raises(RowError, match="says only how a user's turn begins; take 'llama3' or 'qwen2'"):
        found.prompt(SAID)


@pytest.mark.parametrize("template", ["llama-3", "qwen", "user"])
def test_a_misspelt_name_is_no_text(template):
    with pytest.raises(SpecError, match="is not a known template"):
        pre_query(template)


def test_a_template_that_is_none_is_refused():
    with pytest.raises(SpecError, match="template"):
        pre_query("{% for message in messages %}<|user|>")
