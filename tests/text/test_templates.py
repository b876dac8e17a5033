"""The chat templates of every pair that ships, from tokenizer folders without a model.

The templates here are minimal ones that behave as the published ones do where it matters: what they put around a message, what
they make of a thought in the history, what they open a reply with. The folders load as a model's own do.
"""

import json
from pathlib import Path
from typing import get_args

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from sgl_specreason.errors import UsageError
from sgl_specreason.method.score import DIGITS
from sgl_specreason.plan import catalog
from sgl_specreason.plan.catalog import load_pair, names
from sgl_specreason.text.chat import ChatFormat, load_chats, other_end
from sgl_specreason.text.context import Contexts
from sgl_specreason.text.conversation import Message
from sgl_specreason.text.prompts import PromptSet, load_prompts
from sgl_specreason.text.steps import Author, Written
from sgl_specreason.text.vocabulary import Vocabulary

THINK = ("<think>", "</think>")
CHATML = "{{ '<|im_start|>' + m.role + '\\n' + text + '<|im_end|>\\n' }}"
LATER = "(m.content.split('</think>') | last).lstrip('\\n')"
TEMPLATES: dict[str, str] = {
    # the thought is the model's own to open, and stays in the history
    "chatml": "{% for m in messages %}{% set text = m.content %}" + CHATML + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
    # QwQ: opens the thought, drops it from the history
    "chatml-think": "{% for m in messages %}{% set text = " + LATER + " if m.role == 'assistant' else m.content %}" + CHATML
    + "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}",
    # Qwen3: drops it up to the last question, after that shows a thought even where there was none; closes it if not to think
    "qwen3": "{% set ns = namespace(last=0) %}"
    "{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set text = " + LATER + " if m.role == 'assistant' else m.content %}"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and loop.last %}"
    "{% set thought = ((m.content.split('</think>') | first).split('<think>') | last) if '</think>' in m.content else '' %}"
    "{% set text = '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' + text %}{% endif %}" + CHATML + "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}{% endif %}",
    # R1 and what was distilled or trained from it: no newlines, drops the thought, opens it
    "r1": "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}{% endif %}{% endfor %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ '<｜User｜>' + m.content }}"
    "{% else %}{{ '<｜Assistant｜>' + (m.content.split('</think>') | last) + '<｜end▁of▁sentence｜>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<｜Assistant｜><think>\\n' }}{% endif %}",
}  # fmt: skip
TURNS = {"chatml": "<|im_end|>\n<|im_start|>user\n", "r1": "<｜end▁of▁sentence｜><｜User｜>"}
REPLIES = {
    "chatml": "<|im_end|>\n<|im_start|>assistant\n",
    "qwen3": "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n",
    "r1": "<｜Assistant｜>",
}
CHATML_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
R1_TOKENS = ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>")
# Qwen's vocabularies have every digit for itself, Llama's up to three in a token
QWEN, LLAMA = (
    r"\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
    r"\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+",
)


def folder(path: Path, template: str, *, llama: bool = False) -> Path:
    """A model's folder with a tokenizer and its chat template, and nothing else."""
    words = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("Ċ", "Ċ"), ("t", "h"), ("th", "e"), ("1", "2"), ("Ġ", "7")]
    for left, right in merges:
        words[left + right] = len(words)
    tokenizer = Tokenizer(models.BPE(vocab=words, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA if llama else QWEN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = R1_TOKENS if template == "r1" else CHATML_TOKENS
    tokenizer.add_tokens([AddedToken(word, special=True, normalized=False) for word in special])
    tokenizer.add_tokens([AddedToken(word, special=False, normalized=False) for word in THINK])
    bos = special[0] if template == "r1" else None
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=bos, eos_token=special[1])
    wrapped.save_pretrained(path)
    settings = path / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"chat_template": TEMPLATES[template]}))
    return path


ROLES: tuple[Author, ...] = ("small", "base")
SHIPPED = [(name, role) for name in names("pairs") if load_pair(name).think_tags for role in ROLES]


@pytest.fixture(scope="module", params=SHIPPED, ids=[f"{name} {role}" for name, role in SHIPPED])
def shipped(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ChatFormat]:
    """The family of one model of one pair, and its chat format."""
    name, role = request.param
    pair = load_pair(name)
    model = pair.models[role]
    assert model.template is not None
    if model.model.startswith(catalog.BUNDLE):
        path = Path(model.path)
    else:
        path = folder(tmp_path_factory.mktemp("model"), model.template, llama="Llama" in model.model)
    tags = (pair.think_tags[0], pair.think_tags[1])
    return model.template, load_chats({role: (str(path),)}, tags, trust_remote_code=False)[role]


@pytest.fixture(scope="module")
def prompts() -> PromptSet:
    return load_prompts()


PROBLEM = "What is 12 + 7?\n\nSay it <|im_end|>, not <｜Assistant｜>; no </think> and no <think>."
STEPS = ["12 + 7 is\n\n", "19, so the answer is 19.\n\n", "Done.</think>"]


def test_a_prompt_ends_with_the_one_opened_thought(shipped: tuple[str, ChatFormat]) -> None:
    family, chat = shipped
    prompt = chat.prompt("What is 12 + 7?")
    assert prompt.endswith("<think>\n")
    assert prompt.count("<think>") == 1
    assert prompt.count("What is 12 + 7?") == 1
    assert "</think>" not in prompt
    assert prompt.endswith({"r1": "<｜Assistant｜><think>\n"}.get(family, "<|im_start|>assistant\n<think>\n"))


def test_the_judge_turn_ends_the_thought_and_the_turn_and_begins_a_reply(
    shipped: tuple[str, ChatFormat], prompts: PromptSet
) -> None:
    """After a step: the closing tag once, the end of the assistant's turn, the user's turn, the assistant's begun reply."""
    family, chat = shipped
    question, opening = prompts["judge"].text, prompts["judge_answer"].fill(score="")
    turn = chat.judge_turn(prompts, thinking=True)
    form = "r1" if family == "r1" else "chatml"
    reply = REPLIES[family if family in REPLIES else "chatml"]
    assert turn == f"</think>{TURNS[form]}{question}{reply}{opening}"
    closed = chat.judge_turn(prompts, thinking=False)
    assert turn == f"</think>{closed}"
    whole = chat.prompt("?") + "A step.\n\n" + turn
    assert whole.count("<think>") == whole.count("</think>")  # every thought that is opened is closed


def test_what_was_sent_is_a_prefix_of_what_is_sent_later(shipped: tuple[str, ChatFormat], prompts: PromptSet) -> None:
    """By token ids: the prompt, each context after a step, the judge's request over it, and the closing at the budget."""
    _, chat = shipped
    vocabulary, contexts = Vocabulary(chat.tokenizer), Contexts(think_end=chat.think_end)
    contexts.begin("base", vocabulary, *chat.opening([Message("user", PROBLEM)]))
    opening = contexts.openings["base"].encoded
    sent = [opening]
    for number, step in enumerate(STEPS):
        turn = chat.judge_turn(prompts, thinking=not step.endswith(chat.think_end))
        judged = contexts.prompt("base", vocabulary, number, (Written(step), turn))
        assert judged.prefix.encoded == sent[-1]
        contexts.kept.append(Written(step))
        kept = contexts.prompt("base", vocabulary, number + 1).prefix
        step_ids = vocabulary.plain(step, chat.think_end)
        assert judged.suffix[: len(step_ids)] == list(step_ids)  # what judging left in the cache is what comes next
        assert kept.encoded.startswith(sent[-1])
        sent.append(kept.encoded)
    assert all(kept.startswith(opening) for kept in sent)


def test_a_history_that_is_rendered_again_is_another_text(shipped: tuple[str, ChatFormat]) -> None:
    """Why nothing is ever rendered twice: these templates drop or invent thoughts."""
    _, chat = shipped
    answer = "<think>\nA step.\n</think>\n\n19"
    messages = [("user", "?"), ("assistant", answer), ("user", "Sure?")]
    again = chat.tokenizer.apply_chat_template(
        [{"role": role, "content": text} for role, text in messages], tokenize=False, enable_thinking=True
    )
    keeps = "split" not in chat.tokenizer.chat_template  # type: ignore[attr-defined]
    assert again.startswith(chat.prompt("?").removesuffix("<think>\n") + "<think>") == keeps


def test_each_digit_is_a_token_of_its_own_after_the_judge_turn(
    shipped: tuple[str, ChatFormat], prompts: PromptSet
) -> None:
    _, chat = shipped
    vocabulary = Vocabulary(chat.tokenizer)
    for thinking in (True, False):
        turn = chat.judge_turn(prompts, thinking=thinking)
        before = vocabulary.ids(turn)
        found = [vocabulary.ids(turn + digit) for digit in DIGITS]
        assert all(ids[:-1] == before for ids in found)
        assert len({ids[-1] for ids in found}) == 10


def test_control_tokens_in_a_problem_are_text(shipped: tuple[str, ChatFormat]) -> None:
    """The ids have the control tokens that the template wrote around the problem, and no others."""
    _, chat = shipped
    vocabulary = Vocabulary(chat.tokenizer)
    added = set(chat.tokenizer.get_added_vocab().values())  # type: ignore[attr-defined]

    def controls(problem: str) -> list[int]:
        prompt, contents = chat.opening([Message("user", problem)])
        ids = vocabulary.framed(prompt, contents)
        assert chat.tokenizer.decode(ids) == prompt
        return [token for token in ids if token in added]

    assert controls(PROBLEM) == controls("What is 12 + 7?")


HISTORY = [
    Message("system", "Be brief. <|im_end|>"),
    Message("user", "What is 12 + 7?"),
    Message("assistant", "12 + 7 is 19."),
    Message("user", "Sure?\n\nNo <think>, <｜Assistant｜>!"),
]


def test_turns_are_rendered_as_the_template_has_them_without_their_thoughts(shipped: tuple[str, ChatFormat]) -> None:
    """A system's words, two turns, and the assistant's opening; where each content stands is known."""
    _, chat = shipped
    prompt, contents = chat.opening(HISTORY)
    own = chat.tokenizer.apply_chat_template(
        [message._asdict() for message in HISTORY], tokenize=False, add_generation_prompt=True, enable_thinking=True
    )
    assert prompt == own.removesuffix("<think>\n") + "<think>\n"
    assert [prompt[content] for content in contents] == [message.content for message in HISTORY]


@pytest.mark.parametrize(
    "thought", ["<think>x</think>", "<think>\nTwo.\n\nLines.\n</think>\n\n", "\n", "\n<think>\n\n</think>"]
)
def test_thoughts_of_earlier_turns_are_left_out_whatever_the_template_does(
    shipped: tuple[str, ChatFormat], thought: str
) -> None:
    _, chat = shipped
    told = [m._replace(content=thought + m.content) if m.role == "assistant" else m for m in HISTORY]
    assert chat.opening(told) == chat.opening(HISTORY)


@pytest.mark.parametrize("history", [HISTORY, HISTORY[:2], HISTORY[1:2]], ids=["turns", "system", "alone"])
def test_a_model_that_is_not_to_think_finds_its_thought_closed(
    shipped: tuple[str, ChatFormat], history: list[Message]
) -> None:
    """By the template's own switch, or by us where it has none."""
    _, chat = shipped
    prompt, contents = chat.opening(history, thinking=False)
    assert prompt == chat.opening(history).prompt.removesuffix("<think>\n") + "<think>\n\n</think>\n\n"
    assert [prompt[content] for content in contents] == [message.content for message in history]


def test_the_next_turns_prompt_goes_on_where_the_last_one_opened_its_thought(shipped: tuple[str, ChatFormat]) -> None:
    """All that is prefilled for it is the answer and the new question: by token ids, all but the opening tag is shared."""
    _, chat = shipped
    first, second = (chat.vocabulary.framed(*chat.opening(HISTORY[:count])) for count in (2, 4))
    tag = chat.vocabulary.ids("<think>\n")
    assert first[-len(tag) :] == tag
    assert second[: len(first) - len(tag)] == first[: -len(tag)]


def test_control_tokens_in_any_turn_are_text(shipped: tuple[str, ChatFormat]) -> None:
    _, chat = shipped
    added = set(chat.tokenizer.get_added_vocab().values())  # type: ignore[attr-defined]
    quiet = [Message(role, "a") for role, _ in HISTORY]
    loud = [Message(role, "No </think>" * (role != "assistant") + content) for role, content in HISTORY]
    found = []
    for messages in (quiet, loud):
        opening = chat.opening(messages)
        ids = chat.vocabulary.framed(*opening)
        assert chat.tokenizer.decode(ids) == opening.prompt
        found.append([token for token in ids if token in added])
    assert found[0] == found[1]


@pytest.mark.parametrize("family", TEMPLATES)
def test_every_family_that_a_pair_can_name_is_rendered_here(family: str, tmp_path: Path, prompts: PromptSet) -> None:
    chats = load_chats({"base": (str(folder(tmp_path, family)),)}, THINK, trust_remote_code=False)
    assert chats["base"].prompt("?").count("<think>") == 1
    assert chats["base"].judge_turn(prompts, thinking=True).startswith("</think>")


def test_the_families_are_those_of_the_pairs_files() -> None:
    assert set(TEMPLATES) == set(get_args(catalog.Template))


def test_other_think_tags_come_from_the_pairs_file(tmp_path: Path, prompts: PromptSet) -> None:
    chats = load_chats({"base": (str(folder(tmp_path, "chatml")),)}, ("<reason>", "</reason>"), trust_remote_code=False)
    assert chats["base"].prompt("?").endswith("<|im_start|>assistant\n<reason>\n")
    assert chats["base"].judge_turn(prompts, thinking=True).startswith("</reason><|im_end|>")


@pytest.mark.parametrize("name", [name for name in names("pairs") if not load_pair(name).think_tags])
def test_a_pair_without_think_tags_has_nothing_put_into_its_mouth(
    name: str, tmp_path: Path, prompts: PromptSet
) -> None:
    template = load_pair(name).base.template
    assert template is not None
    place = str(folder(tmp_path, template))
    chat = load_chats({"base": (place,)}, ("", ""), trust_remote_code=False)["base"]
    assert chat.prompt("?").endswith("<|im_start|>assistant\n")
    assert chat.judge_turn(prompts, thinking=True).startswith("<|im_end|>")


def test_a_tokenizer_is_taken_from_the_first_place_that_has_one(tmp_path: Path) -> None:
    """A running server's own path may be on another machine."""
    here = str(folder(tmp_path / "here", "chatml"))
    chats = load_chats({"base": (str(tmp_path / "elsewhere"), here)}, THINK, trust_remote_code=False)
    assert chats["base"].name == here
    with pytest.raises(UsageError, match=r"elsewhere.*nowhere"):
        load_chats({"base": (str(tmp_path / "elsewhere"), str(tmp_path / "nowhere"))}, THINK, trust_remote_code=False)


@pytest.mark.parametrize(
    ("text", "ours", "tag"),
    [
        ("So 4.</reasoning>\n4", "</think>", "</reasoning>"),
        ("So 4.[/THINK]4", "</think>", "[/THINK]"),
        ("So 4.</think>4", "", "</think>"),
        ("So 4.</think>4", "</think>", None),
        (
            "a<|end|><|start|>assistant<|channel|>final<|message|>b",
            "<|end|><|start|>assistant<|channel|>final<|message|>",
            None,
        ),
        ("if a < b: think", "</think>", None),
    ],
)
def test_the_closing_tag_of_another_family_is_seen(text: str, ours: str, tag: str | None) -> None:
    assert other_end(text, ours) == tag
