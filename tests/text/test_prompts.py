"""Templates and chat formats, among them templates that rewrite history."""

from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import jinja2
import pytest
from chat_templates import CHATML, CHATML_THINK, QWEN3, R1

from sgl_specreason.errors import UsageError
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.conversation import Message
from sgl_specreason.text.prompts import PLACEHOLDERS, Template, load_prompts

TEMPLATES = {"chatml": CHATML, "chatml with think": CHATML_THINK, "qwen3": QWEN3, "r1": R1}


class Rendering:
    """A tokenizer that can only render its chat template."""

    def __init__(self, template: str) -> None:
        self.template = jinja2.Environment().from_string(template)

    def apply_chat_template(self, conversation: list[dict[str, str]], *, tokenize: bool, **options: Any) -> str:
        assert not tokenize
        return self.template.render(messages=conversation, **options)

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        raise NotImplementedError

    def decode(self, token_ids: list[int]) -> str:
        raise NotImplementedError


@pytest.fixture(params=TEMPLATES.values(), ids=TEMPLATES)
def chat(request: pytest.FixtureRequest) -> ChatFormat:
    return ChatFormat(tokenizer=Rendering(request.param))


def test_a_prompt_ends_with_exactly_one_opened_thought(chat: ChatFormat) -> None:
    prompt = chat.prompt("What is {{ 1 + 1 }} {% raw %}?")
    assert prompt.endswith("<think>\n")
    assert prompt.count("<think>") == 1
    assert "{{ 1 + 1 }}" in prompt


def test_a_judge_turn_closes_the_thought_and_opens_a_reply(chat: ChatFormat) -> None:
    """Appended to a thought, it must read as: end of the assistant's turn, a user's turn, the beginning of a reply."""
    prompts = load_prompts()
    turn = chat.judge_turn(prompts, thinking=True)
    assert turn.startswith("</think><|im_end|>" if "im_start" in chat.prompt("x") else "</think><EOS><User>")
    assert turn.count(prompts["judge"].text) == 1
    assert turn.endswith(prompts["judge_answer"].fill(score=""))
    reply = turn.split(prompts["judge"].text)[1]
    assert reply.count("<think>") == reply.count("</think>")
    assert chat.judge_turn(prompts, thinking=False) == turn.removeprefix("</think>")


def test_qwen3s_own_rendering_of_a_begun_reply_is_used() -> None:
    turn = ChatFormat(tokenizer=Rendering(QWEN3)).judge_turn(load_prompts(), thinking=True)
    assert "<|im_start|>assistant\n<think>\n\n</think>\n\nMy score" in turn


def test_a_template_that_hides_messages_is_refused() -> None:
    with pytest.raises(UsageError, match="conversation of two turns"):
        ChatFormat(tokenizer=Rendering("{{ messages[0].content }}")).judge_turn(load_prompts(), thinking=True)


def test_the_shipped_templates_are_complete_and_hashed() -> None:
    prompts = load_prompts()
    assert set(prompts.hashes) == set(PLACEHOLDERS)
    assert all(len(value) == 64 for value in prompts.hashes.values())
    assert len(set(prompts.hashes.values())) == len(PLACEHOLDERS)


def test_filling_never_expands_twice() -> None:
    template = Template(name="math", text="{{problem}}", source="x")
    assert template.fill(problem="{{problem}} \\boxed{}") == "{{problem}} \\boxed{}"


BAD = {
    "misspelt": ("math", "Solve {{problm}}", "{{problm}}"),
    "missing": ("math", "Solve {problem}", "{{problem}}"),
    "unknown beside known": ("math", "{{problem}} {{x}}", "{{x}}"),
    "in a file that takes none": ("judge", "Is {{step}} right?", "{{step}}"),
    "score not last": ("judge_answer", "{{score}}!", "{{score}}"),
}


@pytest.mark.parametrize(("name", "text", "named"), BAD.values(), ids=BAD)
def test_bad_placeholders_name_file_and_placeholder(tmp_path: Path, name: str, text: str, named: str) -> None:
    for other in PLACEHOLDERS:
        (tmp_path / f"{other}.txt").write_text(load_prompts()[other].text + "\n")
    (tmp_path / f"{name}.txt").write_text(text + "\n")
    with pytest.raises(UsageError) as error:
        load_prompts(tmp_path)
    assert str(tmp_path / f"{name}.txt") in str(error.value)
    assert named in str(error.value)


def test_a_missing_folder_or_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        load_prompts(tmp_path / "none")
    with pytest.raises(UsageError, match=r"math\.txt"):
        load_prompts(tmp_path)


def test_a_template_with_a_date_is_told_the_same_one_all_through_a_run() -> None:
    """Llama 3 takes it as `date_string`, others ask for the day; a prompt after midnight must find its message."""
    dated = "{{ date_string }} {{ strftime_now('%d %b %Y') }}|{{ messages[0].content }}|"
    chat = ChatFormat(tokenizer=Rendering(dated), date=date(2026, 1, 2))
    prompt, (content,) = chat.opening([Message("user", "the question")])
    assert prompt.startswith("02 Jan 2026 02 Jan 2026|the question|")
    assert prompt[content] == "the question"


def test_words_that_change_around_a_message_end_the_run() -> None:
    """Where the message stands must be known, or its control tokens could not be told from the template's."""
    count = iter(range(100))
    tokenizer = Rendering("{{ strftime_now('') }}|{{ messages[0].content }}|")
    chat = ChatFormat(tokenizer=tokenizer, date=Ticking(lambda _: str(next(count))))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="does not put the same words around every message"):
        chat.opening([Message("user", "one")])


class Ticking:
    """A day that is another one each time that it is asked for."""

    def __init__(self, strftime: Callable[[str], str]) -> None:
        self.strftime = strftime

    def __format__(self, spec: str) -> str:
        return ""


@pytest.mark.parametrize(
    ("switch", "opens"), [("thinking", True), ("enable_thinking", True), ("reasoning_mode", False)]
)
def test_a_template_is_asked_to_think_by_every_known_switch_or_refused(switch: str, opens: bool) -> None:
    """DeepSeek-V3.1's template closes the thought unless `thinking` is set: a closed thought must not be opened again."""
    template = (
        f"{{{{ messages[0].content }}}}{{% if {switch} %}}<think>{{% else %}}<think>\n\n</think>\n\n{{% endif %}}"
    )
    chat = ChatFormat(tokenizer=Rendering(template))
    if opens:
        assert chat.prompt("?") == "?<think>"
    else:
        with pytest.raises(UsageError, match="closes the thought before it begins"):
            chat.prompt("?")


@pytest.mark.parametrize(
    ("tags", "opening"),
    [
        (("", ""), ""),
        (("<think>", "</think>"), "<think>\n"),
        (("[THINK]", "[/THINK]"), "[THINK]"),
        (("<|channel|>analysis<|message|>", "<|end|>"), "<|channel|>analysis<|message|>"),
        (("<reason>", "</reason>"), "<reason>\n"),
    ],
)
def test_a_thought_is_opened_by_the_pairs_tags_or_not_at_all(tags: tuple[str, str], opening: str) -> None:
    chat = ChatFormat(tokenizer=Rendering(CHATML), think_start=tags[0], think_end=tags[1])
    prompt, (content,) = chat.opening([Message("user", "?")])
    assert prompt == f"<|im_start|>user\n?<|im_end|>\n<|im_start|>assistant\n{opening}"
    assert prompt[content] == "?"
    assert chat.judge_turn(load_prompts(), thinking=True).startswith(f"{tags[1]}<|im_end|>")
