"""What a hybrid's prefix cache keeps of the method's requests: a tiny Qwen3.5 with random weights on SGLang's own scheduler.

Its engine takes 2 GB and, on an idle machine, 15 s to start; a judgement takes a second. `hybrid_engine.py` says what is not
SGLang's of it.
"""

import random
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import urllib3

from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.servers import EngineSpec, cpu_args, cpu_env
from sgl_specreason.engines.startup import started
from sgl_specreason.plan.checkpoints import BUNDLED

pytestmark = pytest.mark.engines
PROGRAM = Path(__file__).parent.parent / "hybrid_engine.py"
CHUNK, STEP, TURN = 64, 40, 70
"""Tokens between snapshots, of a step and of the judge's turn."""
LABELS = list(range(10, 20))
MOVES = 0.07
"""SGLang's own documentation says that a hybrid's probabilities move by as much between cold and cached prefixes."""


class Hybrid(EngineSpec):
    """An engine that `hybrid_engine.py` starts."""

    def command(self, port: int | str, module: str = "") -> list[str]:
        python, _, _, *words = super().command(port, module)
        return [python, str(PROGRAM), *words]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Two layers, one of each kind, with a state that remembers hundreds of tokens."""
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    torch.manual_seed(0)
    config = Qwen3_5TextConfig(
        vocab_size=544, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=1, num_key_value_heads=1,
        head_dim=32, max_position_embeddings=4096, tie_word_embeddings=False, initializer_range=0.3, eos_token_id=523,
        layer_types=["linear_attention", "full_attention"], full_attention_interval=2, linear_conv_kernel_dim=4,
        linear_key_head_dim=32, linear_value_head_dim=32, linear_num_key_heads=1, linear_num_value_heads=1,
    )  # fmt: skip
    written = Qwen3_5ForCausalLM(config).to(torch.bfloat16)
    written.model.layers[0].linear_attn.A_log.data.fill_(-5.0)
    folder = tmp_path_factory.mktemp("hybrid")
    written.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(BUNDLED / "small" / name, folder)
    return str(folder)


@contextmanager
def serving(model: str, logs: Path, strategy: str) -> Iterator[Engine]:
    words = ("--dtype", "bfloat16", "--max-mamba-cache-size", "40", "--mamba-radix-cache-strategy", strategy)
    spec = Hybrid(role="base", model=model, args=(*cpu_args(8192), *words), env=cpu_env())
    with started([spec], logs, say=lambda line: print(line, file=sys.stderr)) as engines:
        yield engines["base"]


def asked(engine: Engine, ids: list[int], tokens: int = 0) -> dict[str, Any]:
    """A judgement, or with `tokens` what is written after these ids."""
    sampling = {"max_new_tokens": tokens, "temperature": 0, "ignore_eos": True}
    body = {"input_ids": ids, "sampling_params": sampling, "return_logprob": True, "token_ids_logprob": LABELS}
    found: dict[str, Any] = post(engine, "/generate", body).json()
    return found


def post(engine: Engine, path: str, body: Any = None) -> urllib3.BaseHTTPResponse:
    key = {"Authorization": f"Bearer {engine.api_key}"}
    reply = urllib3.request("POST", engine.url + path, json=body, headers=key, timeout=300.0)
    assert reply.status == 200, reply.data
    return reply


def judged(answer: dict[str, Any]) -> torch.Tensor:
    """The probabilities of the labels, together 1."""
    (labels,) = answer["meta_info"]["output_token_ids_logprobs"]
    return torch.tensor([logprob for logprob, *_ in labels]).softmax(0)


def cached(answer: dict[str, Any]) -> int:
    return int(answer["meta_info"]["cached_tokens"])


def contexts(count: int) -> tuple[list[list[int]], list[int]]:
    """A context that grows by a step at a time, and the judge's turn."""
    source = random.Random(1)
    whole = [source.randrange(20, 500) for _ in range(150 + count * STEP)]
    return [whole[: 150 + number * STEP] for number in range(1, count + 1)], [
        source.randrange(20, 500) for _ in range(TURN)
    ]


def reference(model: str, ids: list[int]) -> torch.Tensor:
    """What transformers makes of these ids, without any cache."""
    from transformers import Qwen3_5ForCausalLM

    with torch.no_grad():
        logits = Qwen3_5ForCausalLM.from_pretrained(model, dtype=torch.float32)(torch.tensor([ids])).logits
    return logits[0, -1, LABELS].softmax(0)


def test_with_snapshots_a_judgement_goes_on_from_where_the_last_ones_parted(model: str, tmp_path: Path) -> None:
    """It computes three steps at most, and up to a chunk before them; what it says moves little from a cold cache."""
    grown, turn = contexts(7)
    with serving(model, tmp_path, "extra_buffer") as engine:
        answers = [asked(engine, context + turn) for context in grown]
        for context, answer in list(zip(grown, answers, strict=True))[2:]:
            assert len(context) - 3 * STEP - CHUNK < cached(answer) < len(context)
            assert cached(answer) % CHUNK == 0
        drafts = grown[-1]
        for _ in range(4):
            answer = asked(engine, drafts, 24)
            assert len(drafts) - 3 * STEP - CHUNK < cached(answer) < len(drafts)
            drafts = drafts + answer["output_ids"]
        moved = []
        for context, answer in zip(grown, answers, strict=True):
            assert judged(answer) == pytest.approx(reference(model, context + turn), abs=MOVES)
            post(engine, "/flush_cache")
            cold = asked(engine, context + turn)
            assert cached(cold) == 0
            moved.append((judged(cold) - judged(answer)).abs().max().item())
        assert moved[:2] == [0, 0]  # nothing was cached then
        assert 0 < max(moved) < MOVES


def test_without_snapshots_every_judgement_computes_its_whole_context(model: str, tmp_path: Path) -> None:
    """Only a request's own end is kept: what is written goes on from there, and a judgement's end is nobody's beginning."""
    grown, turn = contexts(4)
    with serving(model, tmp_path, "no_buffer") as engine:
        assert [cached(asked(engine, context + turn)) for context in grown] == [0, 0, 0, 0]
        drafts = grown[-1]
        for number in range(3):
            answer = asked(engine, drafts, 24)
            assert cached(answer) == (len(drafts) - 1 if number else 0)
            drafts = drafts + answer["output_ids"]
