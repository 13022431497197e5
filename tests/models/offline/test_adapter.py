"""The stand-in is deterministic, answers in the form that was asked for, and fails as it is told."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sized
from typing import Any

import orjson
import pytest

from raypipe.contracts.llm import LLM, Completion, Request
from raypipe.contracts.model import Payload
from raypipe.errors import CallError, Retry
from raypipe.models.offline import OfflineModel
from raypipe.models.offline.phrases import ASPECTS
from raypipe.models.offline.prompt import MOST_ITEMS, Prompt

SUBTOPICS = """Given a topic, generate a list of 10 subtopics that are related to the topic.
The topic is: Machine Learning
The list must be without numbers, and without any description of the subtopics.
The subtopics should be separated by a comma. There must be no other text than the list."""
QUESTIONS = """Given a topic, generate 5 questions that could be asked about that topic. \
Your response should be in a list format.
The topic is: Neural Networks
The list must be without numbers.
The questions should be separated by a newline character. There must be no other text than the list."""
ANSWERS = """Given a question, generate 2 responses that could be given to that question. \
Your response should be in a list format.
The question is: What is a kernel?
The list must be in the format:
RESPONSE A: Response A text here
RESPONSE B: Response B text here"""


def ask(prompt: str, *, schema: dict[str, Any] | None = None, system: str = "", **fields: Any) -> Completion:
    model = OfflineModel(LLM("offline/stand-in", **fields))
    messages = [{"role": "system", "content": system}] if system else []
    request = Request((*messages, {"role": "user", "content": prompt}), schema=schema)
    return asyncio.run(model.complete(model.payload(request)))


def text_of(prompt: str, **fields: Any) -> str:
    return ask(prompt, **fields).text


# Forms of text.


def test_comma_list_has_the_number_asked_for() -> None:
    items = text_of(SUBTOPICS).split(", ")
    assert len(set(items)) == 10
    assert all(item.startswith("Machine Learning ") and "\n" not in item for item in items)


def test_lines_are_questions() -> None:
    lines = text_of(QUESTIONS).splitlines()
    assert len(set(lines)) == 5
    assert all(line.endswith("?") and "Neural Networks" in line for line in lines)


def test_markers_are_quoted_from_the_prompt() -> None:
    first, second = re.fullmatch(r"RESPONSE A: (.+)\nRESPONSE B: (.+)", text_of(ANSWERS)).groups()  # type: ignore[union-attr]
    assert first != second and "kernel" in first


def test_marked_blocks_keep_their_headings() -> None:
    blocks = "## Text 1\nRating: <1-5>\nRationale: <why>\n\n## Text 2\nRating: <1-5>"
    prompt = f"Judge them.\n### Output format\n{blocks}\n\nText: basalt"
    block = r"## Text 1\nRating: [1-5]\nRationale: .+\n\n## Text 2\nRating: [1-5]"
    assert re.fullmatch(block, text_of(prompt))


@pytest.mark.parametrize(
    ("prompt", "form"),
    [
        ("Write 3 facts about bees as a numbered list.", r"1\. .+\n2\. .+\n3\. .+"),
        ("Write 3 facts about bees as bullet points.", r"- .+\n- .+\n- .+"),
        ("Name three rivers, one per line.", r"rivers .+\nrivers .+\nrivers .+"),
        ("Answer yes or no: are bees insects?", r"yes|no"),
        ("Are bees insects? Answer Yes/No.", r"Yes|No"),
        ("Is this right? Bees are fish.", r"yes|no"),
        ("Classify as one of: positive, negative or neutral.\nText: fine", r"positive|negative|neutral"),
        ("Rate the text on a scale of 1 to 5.\nText: fine", r"[1-5]"),
        ("How do magnets work? Put the result inside <answer></answer>.", r"<answer>.+</answer>"),
        ("Use <thinking> tags, then <result>...</result>. How do magnets work?", r"<thinking>.+\n<result>.+</result>"),
        (
            "About <topic>Roman law</topic>: reply inside <answer>your answer</answer>",
            r"<answer>.*Roman law.*</answer>",
        ),
        ("Write a Python function that merges intervals.", r'def \w+\(items\):\n    """merges intervals .+'),
        ("Generate 1 question about photosynthesis.", r".*photosynthesis.*\?"),
        ("Explain photosynthesis.", r"(?:[A-Z][^.]+\. ?){2,3}"),
        ("", r"(?:[A-Z][^.]+\. ?){2,3}"),
    ],
)
def test_form_follows_the_wording(prompt: str, form: str) -> None:
    assert re.fullmatch(form, text_of(prompt), re.DOTALL)


def test_form_may_stand_in_the_system_prompt() -> None:
    assert text_of("Are bees insects, in your view?", system="Answer YES or NO.") in ("YES", "NO")


def test_python_list_is_json() -> None:
    prompt = "Rewrite 5 variations of given instruction. Instruction: Write a haiku. Output a single Python list."
    assert len(set(orjson.loads(text_of(prompt)))) == 5


def test_quoted_keys_make_an_object() -> None:
    value = orjson.loads(text_of('Return JSON like {"question": "…", "score": 3} about the Roman Empire.'))
    assert value["question"].endswith("?") and "Roman Empire" in value["question"]
    assert value["score"] in range(1, 6)


def test_asking_until_yes_ends() -> None:
    draft, rounds = "Answer: why is the sky blue?", 0
    while "no" in text_of(f"Is this right? {draft}"):
        draft, rounds = text_of(f"Improve: {draft}"), rounds + 1
        assert rounds < 20


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("Write 12 facts.", 12),
        ("Write facts about 2024.5, then 7 more.", 7),
        ("Write seven facts.", 7),
        ("Write 200 facts.", MOST_ITEMS),
        ("Write about the year 2024.", None),
        ("Write 0 facts.", None),
        ("Use GPT-4 well.", None),
    ],
)
def test_count_is_the_first_whole_number(prompt: str, count: int | None) -> None:
    assert Prompt(prompt).count == count


# Playing a model.


def test_answers_depend_on_the_request_alone() -> None:
    assert ask(QUESTIONS) == ask(QUESTIONS)
    assert text_of(QUESTIONS) != text_of(QUESTIONS, temperature=0.3)
    assert text_of(QUESTIONS) == text_of(QUESTIONS, concurrency=3, options={"latency_s": 0.001})
    assert text_of("Explain photosynthesis.") == (
        "With limitations out of the way, the rest of photosynthesis becomes easier to explain. "
        "Work on photosynthesis starts with privacy and the reasons behind it."
    )


def test_aspects_differ() -> None:
    assert len(set(ASPECTS)) == 64


def test_long_answer_is_cut() -> None:
    completion = ask("Explain photosynthesis.", max_tokens=5)
    assert (completion.finish_reason, len(completion.text), completion.usage.output_tokens) == ("length", 20, 5)


def test_stop_ends_the_answer() -> None:
    assert "\n" not in text_of(QUESTIONS, stop=("\n",))


def test_usage_counts_four_characters_a_token() -> None:
    completion = ask("x" * 9, system="y" * 4)
    assert completion.usage.input_tokens == 4
    assert completion.usage.output_tokens == -(-len(completion.text) // 4)


def test_output_tokens_fixes_the_length() -> None:
    assert {ask(prompt, options={"output_tokens": 100}).usage.output_tokens for prompt in (SUBTOPICS, "", "Hi")} == {
        100
    }


def test_fixed_answers() -> None:
    cycled = {text_of(f"Say {n}.", options={"answers": ["one", {"two": 2}]}) for n in range(20)}
    assert cycled == {"one", '{"two":2}'}
    chosen = {"options": {"answers": {"bees": "buzz", "cats": "purr"}}}
    assert (text_of("About bees", **chosen), text_of("About cats", **chosen)) == ("buzz", "purr")
    assert text_of("About dogs", **chosen) not in ("buzz", "purr")


def test_other_answers_are_another_call() -> None:
    models = [
        OfflineModel(LLM("offline/m", options=options)) for options in ({}, {"answers": ["a"]}, {"answers": ["b"]})
    ]
    payloads = [model.payload(Request(({"role": "user", "content": "hi"},))).body for model in models]
    assert len({orjson.dumps(payload) for payload in payloads}) == 3


def outcomes(options: dict[str, Any], tries: int) -> list[list[str]]:
    """What each of 200 requests meets at each try."""
    model = OfflineModel(LLM("offline/m", options=options))

    async def tried(number: int) -> list[str]:
        payload = model.payload(Request(({"role": "user", "content": f"Say {number}."},)))
        return [await once(payload) for _ in range(tries)]

    async def once(payload: Payload) -> str:
        try:
            await model.complete(payload)
        except CallError as error:
            return f"{error.kind} {error.retry}"
        return "ok"

    async def all_tried() -> list[list[str]]:
        return [await tried(number) for number in range(200)]

    return asyncio.run(all_tried())


def test_failing_share_passes_when_tried_again() -> None:
    met = outcomes({"fail_share": 0.5}, 3)
    assert 70 < sum(tries[0] == "server later" for tries in met) < 130
    assert 20 < sum(tries[1] == "server later" for tries in met) < 80
    assert {tries[2] for tries in met} == {"ok"}
    assert met == outcomes({"fail_share": 0.5}, 3)


def test_rejected_share_never_passes() -> None:
    met = outcomes({"reject_share": 0.2}, 2)
    assert 20 < sum(tries == ["rejected never"] * 2 for tries in met) < 60
    assert {tuple(tries) for tries in met} == {("ok", "ok"), ("rejected never", "rejected never")}


class Skipping(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next moment at which there is something to do, so that nothing else counts."""

    now = 0.0
    _ready: Sized
    _scheduled: list[asyncio.TimerHandle]

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0].when())
        super()._run_once()  # type: ignore[misc]


def test_latency_has_the_mean_asked_for() -> None:
    async def spent() -> list[float]:
        model = OfflineModel(LLM("offline/m", options={"latency_s": 0.02, "latency_sigma": 0.5}))
        return await asyncio.gather(*(one(model, number) for number in range(300)))

    async def one(model: OfflineModel, number: int) -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await model.complete(model.payload(Request(({"role": "user", "content": f"Say {number}."},))))
        return loop.time() - started

    with asyncio.Runner(loop_factory=Skipping) as runner:
        times = sorted(runner.run(spent()))
    assert 0.018 < sum(times) / len(times) < 0.022
    assert times[-30] > 1.5 * times[30]


def test_slow_answer_times_out() -> None:
    with pytest.raises(CallError) as caught:
        ask("hi", timeout_s=0.01, options={"latency_s": 5})
    assert (caught.value.kind, caught.value.retry) == ("timeout", Retry.LATER)


@pytest.mark.parametrize(
    ("prompt", "count"),
    [
        ("A town of 900 people votes.\nName 6 variables in which they differ.", 6),
        ("Read these 3 lines and write a list of twelve names.", 12),
        ("Here are 4 rivers. Write about them.", 4),
    ],
)
def test_what_is_asked_for_is_told_from_other_numbers(prompt: str, count: int) -> None:
    assert Prompt(prompt).count == count


def test_the_name_of_a_thing_is_no_persons() -> None:
    def names(of: str) -> list[str]:
        inner = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        schema = {"type": "object", "properties": {of: {"type": "array", "items": inner}}, "required": [of]}
        return [one["name"] for one in orjson.loads(ask("The topic is: tides", schema=schema).text)[of]]

    assert all(name.startswith("tides ") for name in names("variables"))
    assert all(re.fullmatch(r"[A-Z]\w+ [A-Z]\w+", name) for of in ("people", "authors") for name in names(of))


def test_a_label_at_the_beginning_of_a_line_says_what_a_prompt_is_about() -> None:
    assert (
        Prompt("Be brief. Vary what is asked for: facts, reasons.\nThe passage is: Tides rise.").subject == "Tides rise"
    )
    assert Prompt("Be brief. The topic is: tides\nAnswer soon.").subject == "tides"


def test_an_instruction_under_a_heading_is_rewritten_as_an_instruction() -> None:
    prompt = "Write a new version of it. Reply with the new instruction alone.\n\n## Instruction\nDescribe tides."
    assert re.fullmatch(r"(Explain|Write|Compare|Describe|Summarise) .*\btides\b.*\.", text_of(prompt))
