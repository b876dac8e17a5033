"""Owns the training of the bundled pair (`sgl_specreason/demo/models/`); the product never imports it.

Example: python tools/train_demo.py --stage small --minutes 20 --threads 1

Stages, each from the checkpoint of the one before, in `--work`:

    tokenizer   byte-level BPE on the problems and the shipped prompts, digits one by one, ChatML, think tags
    small       a two-layer model learns to solve
    solve       a shallow base learns to solve, and not to forget which digit stands at a place: a solver overwrites its
                input (a linear probe found 42 % of the digits in its last layer), and a judge has to compare
    detect      the base is deepened by blocks that begin as the identity; they learn to see where a step goes wrong
    judge       the blocks above the probe learn to score the last step in exactly the judge turn that ships
    joint       nothing frozen any more, at a lower rate
    deepen      the same with the blocks that give it the depth, and so the price, that it is served with
    export      bfloat16 safetensors into the package, under 10 MB in all

The judge's labels come from the generator. A judge turn is a branch of the solution it judges (an attention mask keeps
branches and later steps apart, positions continue from the step), so solving and judging are learnt from one sequence.
A linear probe on a middle layer, thrown away afterwards, is told at every token whether its step has gone wrong and at a
step's end its score: many labels a sequence, where the score alone would have to discover where to look. Another one
is asked for the score all along the judge turn, so that it is handed on from the step's end to where it is needed.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812
from options import Parser, at_least
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from sgl_specreason.demo.problems import (
    CONCLUSION,
    KINDS,
    Op,
    Problem,
    problems,
    random_problem,
    step_text,
)
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.prompts import load_prompts
from sgl_specreason.text.steps import pieces

PACKAGE_MODELS = Path(__file__).parent.parent / "sgl_specreason" / "demo" / "models"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
THINK = ["<think>", "</think>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n<think>\\n' -}}{%- endif -%}"
)
DRILL_TOKENS = 216
SOLVER_LAYERS = 4
VOCABULARY = 768  # at most; the corpus has fewer words, each of which becomes one token
SHAPES = {
    "small": {"hidden_size": 64, "intermediate_size": 192, "num_attention_heads": 4},
    "base": {"hidden_size": 128, "intermediate_size": 256, "num_attention_heads": 8},
}
PROMPTS = load_prompts(Path(__file__).parent.parent / "prompts")


def train_tokenizer(out: Path) -> None:
    corpus: list[str] = []
    for problem in problems("train", 2000, seed=1):
        corpus += [problem.text, "\n\n".join(problem.solution), f"The answer is \\boxed{{{problem.answer}}}."]
    corpus += [PROMPTS[name].text for name in ("math", "choice", "judge", "judge_answer", "close")] * 2000
    corpus += ["user", "assistant"] * 2000
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken(text, special=True) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in THINK])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )
    fast.save_pretrained(out)


class Encoder:
    """Text to ids piece by piece, as the endpoint does it, and the fixed ids of a judge turn."""

    def __init__(self, folder: Path) -> None:
        self.tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        self.chat = ChatFormat(tokenizer=self.tokenizer)
        self.piece = cache(lambda text: tuple(self.tokenizer(text, add_special_tokens=False).input_ids))
        self.digits = [self.ids(str(digit))[0] for digit in range(10)]

    def ids(self, text: str) -> list[int]:
        return [token for piece in pieces(text) for token in self.piece(piece)]

    def watched(self, step: list[int], differs: int) -> list[int]:
        """For each token of a step 1 from `differs` on and 0 before it."""
        return [int(at >= differs) for at in range(len(step))]

    def prompt(self, problem: Problem) -> list[int]:
        return self.ids(self.chat.prompt(PROMPTS["math"].fill(problem=problem.text)))

    def judge_turn(self, *, thinking: bool) -> list[int]:
        return self.ids(self.chat.judge_turn(PROMPTS, thinking=thinking))


@dataclass
class Step:
    """A step as it stands in a judge example, the right one in its place, and its score (right: 7..9)."""

    text: str
    right: str
    score: int


def closing(problem: Problem) -> str:
    return f"\n\nThe answer is \\boxed{{{problem.answer}}}.<|im_end|>"


def ended(step: str) -> str:
    """The step with what ends it: the think tag after a conclusion, a blank line otherwise."""
    return f"{step}\n</think>" if step.startswith("No steps") else f"{step}\n\n"


def wrong_result(rng: random.Random, value: int) -> int:
    """A result that a small model might have got: a digit off by little, a carry lost, the digits swapped, anything."""
    candidates = [
        (value + rng.choice([-1, 1])) % 10 + value // 10 * 10,
        (value + rng.choice([-10, 10])) % 100,
        value // 10 * 10 + rng.randrange(10),
        rng.randrange(10) * 10 + value % 10,
        value % 10 * 10 + value // 10,
        (value + rng.choice([-2, -1, 1, 2])) % 100,
        rng.randrange(100),
    ]
    wrong = rng.choice(candidates)
    return wrong if wrong != value else (value + rng.randint(1, 99)) % 100


def wrong_operand(rng: random.Random, op: Op) -> int:
    """An operand that a small model might have read: a digit dropped, added or changed, the digits swapped."""
    if op.kind == "multiply":
        return rng.choice([digit for digit in range(3, 10) if digit != op.operand])
    tens, ones = divmod(op.operand, 10)
    likely = [tens, tens, tens, ones, ones * 10 + tens] if tens else [ones * 10 + rng.randrange(10)] * 3
    wrong = rng.choice([*likely, wrong_result(rng, op.operand)])
    return wrong if wrong not in (op.operand, 0) else wrong_result(rng, op.operand)


def right_score(op: Op) -> int:
    return {"swap": 9, "add": 8, "subtract": 8, "multiply": 7}[op.kind]


def corrupted(rng: random.Random, problem: Problem, index: int, value: int) -> tuple[Step, int]:
    """A wrong step at `index` from `value`, and the value that it states."""
    op = problem.ops[index]
    right = step_text(index + 1, op, value, op.apply(value))
    roll = rng.random()
    if op.operand >= 10 and rng.random() < 0.6:
        roll = 0.5  # a small model drops one of the two digits more often than it does anything else
    if roll < 0.38:
        result = wrong_result(rng, op.apply(value))
        same = sum(a == b for a, b in zip(f"{result:02d}", f"{op.apply(value):02d}", strict=True))
        return Step(step_text(index + 1, op, value, result), right, 3 if same else 2), result
    if roll < 0.48:
        other = wrong_result(rng, value)
        text = step_text(index + 1, op, other, op.apply(other))
        return Step(text, right, 1), op.apply(other)
    if roll < 0.97:
        if roll < 0.83 and op.kind != "swap":
            changed = Op(kind=op.kind, operand=wrong_operand(rng, op))
            score = 1
        else:
            kind = rng.choice([kind for kind in KINDS if kind != op.kind])
            operand = {"swap": 0, "multiply": rng.randint(3, 9)}.get(kind, op.operand or rng.randint(1, 99))
            changed = Op(kind=kind, operand=operand)
            score = 0
        text = step_text(index + 1, changed, value, changed.apply(value))
        if text != right:
            return Step(text, right, score), changed.apply(value)
    return Step(CONCLUSION.format(value=value), right, 0), value


def judged_steps(rng: random.Random, problem: Problem, wrong: float) -> list[Step]:
    """A solution in which each step is wrong with probability `wrong`; right ones go on from what was stated."""
    value, steps = problem.start, []
    for index, op in enumerate(problem.ops):
        if rng.random() < wrong:
            step, value = corrupted(rng, problem, index, value)
        else:
            text = step_text(index + 1, op, value, op.apply(value))
            step, value = Step(text, text, right_score(op)), op.apply(value)
        steps.append(step)
        if step.text.startswith("No steps"):
            return steps
    right = CONCLUSION.format(value=value)
    if rng.random() < wrong:
        steps.append(Step(CONCLUSION.format(value=wrong_result(rng, value)), right, 0))
    else:
        steps.append(Step(right, right, 9))
    return steps


def lm_batch(encoder: Encoder, chains: list[Problem]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids (batch, length) and labels of the same shape, -100 on the prompt and the padding."""
    rows = []
    for problem in chains:
        prompt = encoder.prompt(problem)
        text = "".join(map(ended, problem.solution)) + closing(problem)
        answer = encoder.ids(text)
        rows.append((prompt + answer, [-100] * len(prompt) + answer))
    length = max(len(ids) for ids, _ in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels = torch.full((len(rows), length), -100)
    for row, (tokens, targets) in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        labels[row, : len(tokens)] = torch.tensor(targets)
    return ids, labels


def drill_batch(encoder: Encoder, rng: random.Random, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Unrelated steps in a row, without a problem: more results per token. Only the two result digits are targets."""
    ids, labels = [], []
    for _ in range(count):
        row: list[int] = []
        targets: list[int] = []
        while len(row) < DRILL_TOKENS:
            number = rng.randint(1, 8)
            op, value = rng.choice(random_problem(rng).ops), rng.randrange(100)
            tokens = encoder.ids(ended(step_text(number, op, value, op.apply(value))))
            row += tokens
            targets += [-100] * (len(tokens) - 3) + tokens[-3:-1] + [-100]
        ids.append(row[:DRILL_TOKENS])
        labels.append(targets[:DRILL_TOKENS])
    return torch.tensor(ids), torch.tensor(labels)


def wrong_drill_batch(
    encoder: Encoder, rng: random.Random, count: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Drills of which half have a wrong result, where they have gone wrong (as in `JudgeBatch`), and the right digits there."""
    ids, labels, rights = [], [], []
    for _ in range(count):
        row: list[int] = []
        targets: list[int] = []
        expected: list[int] = []
        while len(row) < DRILL_TOKENS:
            number, value = rng.randint(1, 8), rng.randrange(100)
            op = rng.choice(random_problem(rng).ops)
            right = encoder.ids(ended(step_text(number, op, value, op.apply(value))))
            result = wrong_result(rng, op.apply(value)) if rng.random() < 0.5 else op.apply(value)
            tokens = encoder.ids(ended(step_text(number, op, value, result)))
            differs = next((i for i, (a, b) in enumerate(zip(tokens, right, strict=True)) if a != b), len(tokens))
            row += tokens
            targets += [-100] * (len(tokens) - 3) + encoder.watched(tokens, differs)[-3:]
            digits = [encoder.digits.index(token) for token in right[-3:-1]]
            expected += [-100] * (len(tokens) - 3) + digits + [-100]
        ids.append(row[:DRILL_TOKENS])
        labels.append(targets[:DRILL_TOKENS])
        rights.append(expected[:DRILL_TOKENS])
    return torch.tensor(ids), torch.tensor(labels), torch.tensor(rights)


def gone_wrong_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy with the two classes weighted alike; `labels` are 0, 1 or -100."""
    seen = labels != -100
    loss = F.binary_cross_entropy_with_logits(logits[seen], labels[seen].float(), reduction="none")
    parts = [loss[labels[seen] == kind] for kind in (0, 1)]
    return torch.stack([part.mean() for part in parts if len(part)]).mean()


@dataclass
class JudgeBatch:
    """Trunks with one judge branch per step; shapes (batch, length) and (batch, 1, length, length) for the mask."""

    ids: torch.Tensor
    positions: torch.Tensor
    mask: torch.Tensor
    labels: torch.Tensor  # next-token targets: right steps only
    gone_wrong: torch.Tensor  # 1 from the first wrong token of a step on, 0 before it, -100 outside steps
    at_end: torch.Tensor  # the score, 0..9, at the last token of each step, -100 elsewhere
    in_turn: torch.Tensor  # the score, 0..9, at every token of its judge turn, -100 elsewhere
    scores: torch.Tensor  # the score's digit id at the last token of each branch, -100 elsewhere
    right: torch.Tensor  # 1 or 0 at the same places


def judge_batch(
    encoder: Encoder, solutions: list[tuple[Problem, list[Step]]], branches: Callable[[int], Collection[int]] = range
) -> JudgeBatch:
    """`branches` chooses, of so many steps, the ones that get a judge turn; all by default."""
    rows = []
    for problem, steps in solutions:
        trunk = encoder.prompt(problem)
        labels, wrong, ends = [-100] * len(trunk), [-100] * len(trunk), []
        for step in steps:
            tokens, right = encoder.ids(ended(step.text)), encoder.ids(ended(step.right))
            differs = next((i for i, (a, b) in enumerate(zip(tokens, right, strict=False)) if a != b), len(tokens))
            trunk = trunk + tokens
            labels += tokens if step.score >= 7 else [-100] * len(tokens)
            wrong += encoder.watched(tokens, differs)
            ends.append((len(trunk), step))
        if steps[-1].score >= 7 and all(step.score >= 7 for step in steps):
            tail = encoder.ids(closing(problem))
            trunk, labels, wrong = trunk + tail, labels + tail, wrong + [-100] * len(tail)
        chosen = branches(len(steps))
        rows.append((trunk, labels, wrong, ends, [end for i, end in enumerate(ends) if i in chosen]))
    open_turn, closed_turn = encoder.judge_turn(thinking=True), encoder.judge_turn(thinking=False)
    turns = [[closed_turn if "No steps" in step.text else open_turn for _, step in row[4]] for row in rows]
    length = max(len(row[0]) + sum(map(len, t)) for row, t in zip(rows, turns, strict=True))
    size = (len(rows), length)
    batch = JudgeBatch(
        ids=torch.zeros(size, dtype=torch.long),
        positions=torch.zeros(size, dtype=torch.long),
        mask=torch.zeros(len(rows), 1, length, length, dtype=torch.bool),
        labels=torch.full(size, -100),
        gone_wrong=torch.full(size, -100),
        at_end=torch.full(size, -100),
        in_turn=torch.full(size, -100),
        scores=torch.full(size, -100),
        right=torch.full(size, -100),
    )
    for i, (trunk, labels, wrong, ends, judged_ends) in enumerate(rows):
        at = len(trunk)
        batch.ids[i, :at] = torch.tensor(trunk)
        batch.labels[i, :at] = torch.tensor(labels)
        batch.gone_wrong[i, :at] = torch.tensor(wrong)
        batch.positions[i, :at] = torch.arange(at)
        batch.mask[i, 0, :at, :at] = torch.ones(at, at, dtype=torch.bool).tril()
        for end, step in ends:
            batch.at_end[i, end - 1] = step.score
        for (end, step), turn in zip(judged_ends, turns[i], strict=True):
            stop = at + len(turn)
            batch.ids[i, at:stop] = torch.tensor(turn)
            batch.positions[i, at:stop] = torch.arange(end, end + len(turn))
            batch.mask[i, 0, at:stop, :end] = True
            batch.mask[i, 0, at:stop, at:stop] = torch.ones(len(turn), len(turn), dtype=torch.bool).tril()
            batch.in_turn[i, at:stop] = step.score
            batch.scores[i, stop - 1] = encoder.digits[step.score]
            batch.right[i, stop - 1] = int(step.score >= 7)
            at = stop
        batch.mask[i, 0, at:, 0] = True
    return batch


def new_model(encoder: Encoder, kind: str, layers: int) -> Qwen2ForCausalLM:
    shape = SHAPES[kind]
    heads = shape["num_attention_heads"]
    config = Qwen2Config(
        **shape,
        num_hidden_layers=layers,
        num_key_value_heads=heads // 2,
        vocab_size=-(-len(encoder.tokenizer) // 32) * 32,
        max_position_embeddings=32768,
        rope_parameters={"rope_type": "default", "rope_theta": 300.0},
        tie_word_embeddings=True,
        initializer_range=0.05,
        use_sliding_window=False,
        bos_token_id=None,
        eos_token_id=encoder.tokenizer.eos_token_id,
        pad_token_id=encoder.tokenizer.pad_token_id,
        attn_implementation="sdpa",
    )
    return Qwen2ForCausalLM(config).float()


def deepened(model: Qwen2ForCausalLM, layers: int) -> Qwen2ForCausalLM:
    """The same function with more layers: new blocks go on top and add nothing yet (zero output projections)."""
    settings = model.config.to_dict() | {"num_hidden_layers": layers, "layer_types": None}
    deep = Qwen2ForCausalLM(Qwen2Config(**settings)).float()
    deep.load_state_dict(model.state_dict(), strict=False)
    with torch.no_grad():
        for block in deep.model.layers[model.config.num_hidden_layers :]:
            block.self_attn.o_proj.weight.zero_()
            block.mlp.down_proj.weight.zero_()
    return deep


@torch.no_grad()
def look_back(model: Qwen2ForCausalLM, layer: int) -> None:
    """Half of a block's heads begin as previous-token heads: what was predicted there is what to compare with here.

    The query and key biases alone do it, since a rotary logit of constant vectors depends on the distance only; it
    peaks at distance 1 when the key's vector is turned by one position more.
    """
    config, attention = model.config, model.model.layers[layer].self_attn
    size = config.hidden_size // config.num_attention_heads
    frequencies = config.rope_parameters["rope_theta"] ** (-torch.arange(3) * 2 / size)
    amplitude = math.sqrt(12 * math.sqrt(size))
    query, key = torch.zeros(size), torch.zeros(size)
    query[:3] = amplitude
    key[:3] = amplitude * frequencies.cos()
    key[size // 2 : size // 2 + 3] = amplitude * frequencies.sin()
    attention.q_proj.bias.view(-1, size)[: config.num_attention_heads // 2] = query
    attention.k_proj.bias.view(-1, size)[: config.num_key_value_heads // 2] = key


@torch.no_grad()
def comparer(model: Qwen2ForCausalLM, encoder: Encoder, layer: int) -> None:
    """Begins a block as what compares a digit with the one that was predicted for its place; training goes on from there.

    The previous-token heads fetch the centred digit logits of the token before (the language-model head reads them from
    the same residual stream) into directions that the stream hardly uses; the i-th gated unit multiplies "i was
    predicted" with "this is an i" (a ridge regression on the stream), and their sum, the match, goes to one more direction.
    Gradient descent alone did not find this in 1,000 updates: neither half earns anything without the other.
    """
    block = model.model.layers[layer]
    ids, _, _ = wrong_drill_batch(encoder, random.Random(5), 64)
    stream = model(input_ids=ids, output_hidden_states=True).hidden_states[layer]
    normed = stream / stream.pow(2).mean(-1, keepdim=True).sqrt()
    own = torch.stack([ids == digit for digit in encoder.digits], dim=-1)
    at = own.any(-1)
    x, y = normed[at], own[at].float()
    ridge = x.T @ x + 1e-4 * len(x) * torch.eye(x.shape[1])
    readout = torch.linalg.solve(ridge, x.T @ y).T
    quiet = torch.linalg.eigh(normed.flatten(0, 1).T @ normed.flatten(0, 1))[1][:, :11].T
    fetched, match = quiet[:10], quiet[10]
    scale = float(stream[at].pow(2).mean().sqrt())
    head = model.lm_head.weight[encoder.digits] * model.model.norm.weight
    count = len(encoder.digits)
    block.self_attn.v_proj.weight[:count] = head - head.mean(0)
    block.self_attn.v_proj.bias[:count] = 0
    block.self_attn.o_proj.weight[:, :count] = fetched.T * (2 * scale / 9)
    block.mlp.gate_proj.weight[:count] = 3 * fetched
    block.mlp.up_proj.weight[:count] = readout
    block.mlp.down_proj.weight[:, :count] = (match * scale / 6)[:, None].expand(-1, count)


@torch.no_grad()
def listener(model: Qwen2ForCausalLM, encoder: Encoder, layer: int) -> None:
    """Half of a block's heads begin by attending to where the judge turn begins, at any distance.

    A ridge regression on the stream finds that token; it becomes the keys' slowest rotary component, for which the query
    biases ask. The previous-token heads of the block before have brought there what is known at the step's end.
    """
    config, attention = model.config, model.model.layers[layer].self_attn
    rng = random.Random(6)
    solutions = [(p, judged_steps(rng, p, 0.4)) for p in random_chains(rng, 48)]
    batch = judge_batch(encoder, solutions, lambda steps: rng.sample(range(steps), min(steps, 2)))
    out = model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask, output_hidden_states=True)
    stream = out.hidden_states[layer]
    x = (stream / stream.pow(2).mean(-1, keepdim=True).sqrt())[:, 1:].flatten(0, 1)
    turn, follows = batch.in_turn != -100, batch.positions[:, 1:] == batch.positions[:, :-1] + 1
    begins = (turn[:, 1:] & ~(turn[:, :-1] & follows)).flatten().float()
    ridge = x.T @ x + 1e-3 * len(x) * torch.eye(x.shape[1])
    readout = torch.linalg.solve(ridge, x.T @ begins)
    size = config.hidden_size // config.num_attention_heads
    slowest, amplitude = size // 2 - 1, math.sqrt(16 * math.sqrt(size))
    for head in range(config.num_attention_heads // 2):
        attention.q_proj.bias[head * size + slowest] = amplitude
    for head in range(config.num_key_value_heads // 2):
        attention.k_proj.weight[head * size + slowest] = amplitude * readout


def graft_solver(model: Qwen2ForCausalLM, solver: Qwen2ForCausalLM) -> None:
    """Puts the solver as it is now under blocks that were trained on an earlier one."""
    model.model.embed_tokens.load_state_dict(solver.model.embed_tokens.state_dict())
    for block, trained in zip(model.model.layers[:SOLVER_LAYERS], solver.model.layers, strict=True):
        block.load_state_dict(trained.state_dict())


def freeze(model: Qwen2ForCausalLM, layers: int) -> None:
    """Keeps the embeddings and the first `layers` blocks as they are."""
    for parameter in [*model.model.embed_tokens.parameters(), *model.model.layers[:layers].parameters()]:
        parameter.requires_grad_(False)


class Schedule:
    """Linear warm-up for 3 % of the wall time, cosine down to 5 % of the rate at its end."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: float, minutes: float) -> None:
        self.optimizer, self.rate, self.seconds = optimizer, rate, minutes * 60
        self.begin = time.monotonic()

    @property
    def progress(self) -> float:
        return (time.monotonic() - self.begin) / self.seconds

    @property
    def minutes(self) -> float:
        return round(self.progress * self.seconds / 60, 1)

    def step(self) -> None:
        done = min(self.progress, 1.0)
        factor = done / 0.03 if done < 0.03 else 0.05 + 0.95 * (1 + math.cos(math.pi * done)) / 2
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * factor
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def optimizer_for(parameters: list[torch.nn.Parameter], rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=rate, betas=(0.9, 0.98), weight_decay=0.02)


def random_chains(rng: random.Random, count: int, short: float = 0.5) -> list[Problem]:
    """Problems of the training split; a share of the batches has short ones, from which looking an operation up is learnt."""
    steps = (1, rng.randint(1, 4)) if rng.random() < short else (3, 8)
    chains: list[Problem] = []
    while len(chains) < count:
        problem = random_problem(rng, steps=steps)
        if problem.split == "train":
            chains.append(problem)
    return chains


@torch.no_grad()
def solved(model: Qwen2ForCausalLM, encoder: Encoder, count: int = 200) -> dict[str, float]:
    """Greedy results on problems to validate with (not the bench's): right when no token would be chosen differently."""
    model.eval()
    chains = problems("train", count, seed=1)
    hits, by_kind = 0, {kind: [0, 0] for kind in KINDS}
    for start in range(0, count, 25):
        part = chains[start : start + 25]
        ids, labels = lm_batch(encoder, part)
        ids, labels = ids.to(model.device), labels.to(model.device)
        chosen = model(input_ids=ids).logits[:, :-1].argmax(-1)
        miss = (chosen != labels[:, 1:]) & (labels[:, 1:] != -100)
        hits += int((~miss.any(1)).sum())
        for row, problem in enumerate(part):
            at = len(encoder.prompt(problem))
            for step, op in zip(problem.solution, problem.ops, strict=False):
                size = len(encoder.ids(ended(step)))
                by_kind[op.kind][0] += int(not miss[row, at - 1 : at + size - 1].any())
                by_kind[op.kind][1] += 1
                at += size
    model.train()
    return {"solved": hits / count} | {k: round(a / max(b, 1), 3) for k, (a, b) in by_kind.items()}


@torch.no_grad()
def judged(model: Qwen2ForCausalLM, encoder: Encoder, count: int = 60) -> dict[str, float]:
    """AUROC of the expected score, accuracy of the greedy one at threshold 7, and label mass, on problems to validate with."""
    model.eval()
    rng = random.Random(99)
    chains = problems("train", count, seed=2)
    expected, truth, mass, accepted = [], [], [], []
    for start in range(0, count, 10):
        batch = judge_batch(encoder, [(p, judged_steps(rng, p, 0.4)) for p in chains[start : start + 10]])
        logits = model(input_ids=batch.ids, position_ids=batch.positions, attention_mask=batch.mask).logits
        where = batch.scores != -100
        probabilities = logits[where].softmax(-1)[:, encoder.digits]
        mass.append(probabilities.sum(-1))
        expected.append(probabilities @ torch.arange(10.0) / probabilities.sum(-1))
        accepted.append(probabilities.argmax(-1) >= 7)
        truth.append(batch.right[where])
    model.train()
    score, right = torch.cat(expected), torch.cat(truth).bool()
    wins = (score[right][:, None] > score[~right][None]).float()
    ties = (score[right][:, None] == score[~right][None]).float() / 2
    agree = (torch.cat(accepted) == right).float().mean()
    return {
        "auroc": round(float((wins + ties).mean()), 4),
        "agreement": round(float(agree), 4),
        "label_mass": round(float(torch.cat(mass).mean()), 4),
        "judged": len(score),
    }


def lm_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), ignore_index=-100)


def train_solver(model: Qwen2ForCausalLM, encoder: Encoder, args: argparse.Namespace, rate: float) -> dict[str, float]:
    rng = random.Random(args.seed)
    own = torch.nn.Linear(model.config.hidden_size, len(encoder.digits))
    schedule = Schedule(optimizer_for([*model.parameters(), *own.parameters()], rate), rate, args.minutes)
    tokens, turn, figures = 0, 0, {}
    while schedule.progress < 1:
        if schedule.progress < args.drills and turn % 4:
            ids, labels = drill_batch(encoder, rng, args.batch)
        else:
            ids, labels = lm_batch(encoder, random_chains(rng, args.batch))
        out = model(input_ids=ids, output_hidden_states=True)
        loss = lm_loss(out.logits, labels)
        which = torch.stack([ids == digit for digit in encoder.digits], dim=-1)
        at = which.any(-1)
        remembered = F.cross_entropy(own(out.hidden_states[-1][at]), which[at].long().argmax(-1))
        (loss + 0.3 * remembered).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        schedule.step()
        tokens, turn = tokens + ids.numel(), turn + 1
        if turn % args.report == 0 or schedule.progress >= 1:
            figures = {"minutes": schedule.minutes, "tokens": tokens, **solved(model, encoder)}
            print(f"{schedule.progress:.2f} loss {loss.item():.4f} own {remembered.item():.4f} {figures}", flush=True)
            model.save_pretrained(args.work / f"{args.stage}-latest")
            if args.stop_at and figures["solved"] >= args.stop_at:
                break
    return figures


def train_judge(model: Qwen2ForCausalLM, encoder: Encoder, args: argparse.Namespace, rate: float) -> dict[str, float]:
    rng = random.Random(args.seed + 1)
    probe = torch.nn.Linear(model.config.hidden_size, 1 + len(encoder.digits))
    probe.load_state_dict(torch.load(args.work / "probe.pt", weights_only=True))
    relay = torch.nn.Linear(model.config.hidden_size, len(encoder.digits))
    if args.stage == "judge":
        freeze(model, args.probe)
        look_back(model, args.probe)
        listener(model, encoder, args.probe + 1)
    parameters = [p for p in [*model.parameters(), *probe.parameters(), *relay.parameters()] if p.requires_grad]
    schedule = Schedule(optimizer_for(parameters, rate), rate, args.minutes)
    tokens, labels_seen, turn, figures = 0, 0, 0, {}
    while schedule.progress < 1:
        chains = random_chains(rng, args.batch, short=0.5 if args.stage == "judge" else 0.2)
        solutions = [(p, judged_steps(rng, p, rng.choice([0.0, 0.3, 0.6]))) for p in chains]
        batch = judge_batch(encoder, solutions, lambda steps: rng.sample(range(steps), min(steps, 2)))
        out = model(
            input_ids=batch.ids,
            position_ids=batch.positions,
            attention_mask=batch.mask,
            output_hidden_states=True,
        )
        probed = probe(out.hidden_states[args.probe])
        dense = gone_wrong_loss(probed[..., 0], batch.gone_wrong)
        dense = dense + F.cross_entropy(probed[..., 1:].flatten(0, 1), batch.at_end.flatten(), ignore_index=-100)
        heard = torch.zeros(())
        if args.stage == "judge":
            relayed = relay(out.hidden_states[args.probe + 2]).flatten(0, 1)
            heard = F.cross_entropy(relayed, batch.in_turn.flatten(), ignore_index=-100)
        where = batch.scores != -100
        score = F.cross_entropy(out.logits[where], batch.scores[where])
        solve = lm_loss(out.logits, batch.labels)
        (dense + heard + score + solve).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        schedule.step()
        if schedule.progress < args.drills:
            ids, targets = drill_batch(encoder, rng, args.batch)
            lm_loss(model(input_ids=ids).logits, targets).backward()
            schedule.step()
        tokens, labels_seen, turn = tokens + batch.ids.numel(), labels_seen + int(where.sum()), turn + 1
        if turn % args.report == 0 or schedule.progress >= 1:
            figures = {"minutes": schedule.minutes, "tokens": tokens, "labels": labels_seen}
            figures |= {**solved(model, encoder), **judged(model, encoder)}
            losses = (
                f"dense {dense.item():.4f} relay {heard.item():.4f} score {score.item():.4f} solve {solve.item():.4f}"
            )
            print(f"{schedule.progress:.2f} {losses} {figures}", flush=True)
            model.save_pretrained(args.work / f"{args.stage}-latest")
    return figures


def train_detector(
    model: Qwen2ForCausalLM, encoder: Encoder, args: argparse.Namespace, rate: float
) -> dict[str, float]:
    """The new blocks alone learn to see where a step goes wrong; the solver under them is frozen.

    Comparing cannot be learnt before there is something to compare, and fetching it earns nothing before it is compared:
    so the first new block is also told (by a probe of its own) which digit would have been right.
    """
    rng = random.Random(args.seed + 2)
    probe = torch.nn.Linear(model.config.hidden_size, 1 + len(encoder.digits))
    freeze(model, SOLVER_LAYERS)
    recall = torch.nn.Linear(model.config.hidden_size, len(encoder.digits))
    parameters = [p for p in [*model.parameters(), *probe.parameters(), *recall.parameters()] if p.requires_grad]
    schedule = Schedule(optimizer_for(parameters, rate), rate, args.minutes)
    turn, figures = 0, {}
    while schedule.progress < 1:
        if turn % 2:
            ids, wrong, rights = wrong_drill_batch(encoder, rng, args.batch)
            out = model(input_ids=ids, output_hidden_states=True)
            recalled = recall(out.hidden_states[SOLVER_LAYERS + 1]).flatten(0, 1)
            right = F.cross_entropy(recalled, rights.flatten(), ignore_index=-100)
            drill = gone_wrong_loss(probe(out.hidden_states[args.probe])[..., 0], wrong)
            loss = drill + right
        else:
            solutions = [(p, judged_steps(rng, p, 0.4)) for p in random_chains(rng, args.batch)]
            batch = judge_batch(encoder, solutions, lambda steps: ())
            out = model(input_ids=batch.ids, output_hidden_states=True)
            probed = probe(out.hidden_states[args.probe])
            dense = gone_wrong_loss(probed[..., 0], batch.gone_wrong)
            at_end = F.cross_entropy(probed[..., 1:].flatten(0, 1), batch.at_end.flatten(), ignore_index=-100)
            loss = dense + at_end + lm_loss(out.logits, batch.labels)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        schedule.step()
        turn += 1
        if turn % args.report == 0 or schedule.progress >= 1:
            figures = {"minutes": schedule.minutes, "updates": turn, "dense": dense.item(), "at_end": at_end.item()}
            figures |= {"drill": drill.item(), "recall": right.item()}
            print(f"{schedule.progress:.2f} {figures} {solved(model, encoder, 50)}", flush=True)
    model.requires_grad_(True)
    torch.save(probe.state_dict(), args.work / "probe.pt")
    return figures


def export(work: Path) -> None:
    """The trained pair into the package: bfloat16 weights, tokenizer, and what each stage's record says."""
    for role, stages in (
        ("base", ("solve", "detect", "judge", "joint-a", "joint-b", "joint", "deepen")),
        ("small", ("small",)),
    ):
        out = PACKAGE_MODELS / role
        out.mkdir(parents=True, exist_ok=True)
        Qwen2ForCausalLM.from_pretrained(work / stages[-1]).to(torch.bfloat16).save_pretrained(out)
        PreTrainedTokenizerFast.from_pretrained(work / "tokenizer").save_pretrained(out)
        for file in out.iterdir():
            file.chmod(0o644)
        files = [work / stage / "training.json" for stage in stages]
        records = [json.loads(file.read_text()) for file in files if file.exists()]
        (out / "training.json").write_text(json.dumps(records, indent=1) + "\n")


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "--stage",
        required=True,
        choices=["tokenizer", "small", "solve", "detect", "judge", "joint", "deepen", "export"],
    )
    parser.add_argument("--work", type=Path, default=Path("runs/train-demo"))
    parser.add_argument("--minutes", type=at_least(0.01, float), default=20.0, help="wall time to train for")
    parser.add_argument("--layers", type=at_least(0), default=0, help="depth after this stage (0: the stage's default)")
    parser.add_argument(
        "--rate", type=at_least(0, float), default=0.0, help="peak learning rate (0: the stage's default)"
    )
    parser.add_argument("--batch", type=at_least(1), default=8, help="problems per update")
    parser.add_argument("--threads", type=at_least(1), default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--drills",
        type=float,
        default=0.3,
        help="share of the time with drills: three of four updates of a solver, one more per update of a judge",
    )
    parser.add_argument("--init", type=Path, help="a checkpoint to go on from")
    parser.add_argument("--probe", type=int, default=7, help="layer after which the judge's probe sits")
    parser.add_argument("--report", type=at_least(1), default=200, help="updates between evaluations")
    parser.add_argument("--stop-at", type=float, default=0.0, help="end a solver early at this share of problems")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.work.mkdir(parents=True, exist_ok=True)
    if args.stage == "tokenizer":
        train_tokenizer(args.work / "tokenizer")
        return
    if args.stage == "export":
        export(args.work)
        return
    encoder = Encoder(args.work / "tokenizer")
    if args.stage in ("small", "solve"):
        kind, layers, rate = ("small", 2, 3e-3) if args.stage == "small" else ("base", 4, 2e-3)
        model = new_model(encoder, kind, args.layers or layers)
        if args.init:
            model = Qwen2ForCausalLM.from_pretrained(args.init)
        figures = train_solver(model, encoder, args, args.rate or rate)
    elif args.stage == "detect":
        model = deepened(Qwen2ForCausalLM.from_pretrained(args.work / "solve"), args.layers or 10)
        look_back(model, SOLVER_LAYERS)
        comparer(model, encoder, SOLVER_LAYERS)
        figures = train_detector(model, encoder, args, args.rate or 2e-3)
    elif args.stage == "judge":
        model = Qwen2ForCausalLM.from_pretrained(args.work / "detect").float()
        graft_solver(model, Qwen2ForCausalLM.from_pretrained(args.work / "solve"))
        figures = train_judge(model, encoder, args, args.rate or 2e-3)
    elif args.stage == "joint":
        model = Qwen2ForCausalLM.from_pretrained(args.init or args.work / "judge").float()
        figures = train_judge(model, encoder, args, args.rate or 5e-4)
    else:
        model = deepened(Qwen2ForCausalLM.from_pretrained(args.work / "joint"), args.layers or 24)
        figures = train_judge(model, encoder, args, args.rate or 2e-4)
    model.save_pretrained(args.work / args.stage)
    record = {"stage": args.stage, "seed": args.seed, "threads": args.threads, "batch": args.batch, **figures}
    (args.work / args.stage / "training.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
