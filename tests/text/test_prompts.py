"""Templates and chat formats, among them templates that rewrite history."""

from pathlib import Path
from typing import Any

import jinja2
import pytest
from chat_templates import CHATML, CHATML_THINK, QWEN3, R1

from sgl_specreason.errors import UsageError
from sgl_specreason.text.chat import ChatFormat
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
