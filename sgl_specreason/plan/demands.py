"""Owns what one engine needs of cards of a given size: its weights, bytes per token and per state, what must stay free (pure).

Knows no other engine. Everything here follows from published shapes, nothing is measured. A GB is 2**30 bytes throughout.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sgl_specreason.plan.shapes import GIB, Quantization, Shape
from sgl_specreason.text.steps import Author

SIZES = (1, 2, 4, 8)
UNSPLIT = ("bitsandbytes",)
"""Checkpoints of these kinds are not split over cards (model_loader/loader.py of SGLang 0.5.23)."""
PROCESS_GB, WORKSPACE_GB = 0.6, 0.5
"""Taken of a card by a process' CUDA context and libraries; by attention (512 MiB for Qwen in SGLang)."""
GRAPH_GB, PREFILL_GRAPHS_GB = 2 / 1024, 0.5
"""A decode graph's memory per sequence and that of all prefill graphs, as SGLang 0.5.23 reckons (arg_groups/memory_hook.py)."""
LOGIT_ROWS = 512
"""So many prompt tokens' logits SGLang is told to compute at once where likelihoods are asked for. Its own 2,048 rows
($SGLANG_LOGPROB_CHUNK_SIZE, layers/logprob_processor.py) would take 2 to 4 GB beside the cache."""
SMALL_CARD_GB = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """An engine to be placed. `tp` fixes over how many cards its layers are split; None: whatever gives most room.

    `draft` is the model that guesses its tokens in the same process, `guesses` how many at a time.
    """

    shape: Shape
    quantization: Quantization = "none"
    tp: int | None = None
    draft: Shape | None = None
    guesses: int = 0

    def weights_gb(self, *, loading: bool = False) -> float:
        """Of all that it loads; `loading`: while it does, since 8 bits are made of 16 on the card, when all of them are there."""
        made: Quantization = "fp8" if self.quantization == "fp8" and not loading else "none"
        own = self.shape.weights_gb("none" if loading and self.quantization == "fp8" else self.quantization)
        return own + (self.draft.weights_gb(made) if self.draft else 0)

    def kv_bytes(self, tp: int) -> int:
        """Of a token on each of `tp` cards. SGLang 0.5.23 takes a draft's layers to be like the engine's own where it counts
        what fits (model_executor/pool_configurator.py)."""
        own = self.shape.kv_bytes(tp)
        alike = own * self.draft.layers // (self.shape.cached_layers or 1) if self.draft else 0
        return own + max(alike, self.draft.kv_bytes(tp) if self.draft else 0)

    def state_bytes(self, tp: int) -> int:
        """Of one state of a hybrid on each of `tp` cards. A draft's are its engine's, and `decode.py` lets no hybrid be one."""
        return self.shape.state.bytes(tp) if self.shape.state else 0

    @property
    def verified(self) -> int:
        """How many tokens are verified together, each with a state of its own in a hybrid; 0 without speculation."""
        return self.guesses + 1 if self.guesses else 0

    def splits(self, cards: int, sizes: Sequence[int] = SIZES) -> list[int]:
        """Over how many of `cards` it can be split."""
        return [tp for tp in ([self.tp] if self.tp else sizes) if tp <= cards and not self.hindrance(tp)]

    def hindrance(self, tp: int) -> str:
        """What SGLang asserts and does not hold of a split over `tp` cards, in words; "" where it can be made.

        Read in 0.5.23: models/llama.py and its kin, distributed/utils.py, and of quantised layers quantization/fp8.py,
        marlin_utils.py and awq/schemes/awq_linear.py. Fewer key-value heads than cards are copied.
        """
        if own := _hindrance(self.shape, tp):
            return own
        of_draft = _hindrance(self.draft, tp) if self.draft else ""
        return f"{of_draft} of its draft model" if of_draft else ""


def _hindrance(shape: Shape, tp: int) -> str:
    if shape.heads % tp:
        return f"{shape.heads} attention heads"
    if shape.kv_heads % tp and tp % shape.kv_heads:
        return f"{shape.kv_heads} key-value heads"
    if shape.state and (shape.state.heads % tp or shape.state.groups % tp):
        return f"{shape.state.groups} and {shape.state.heads} heads with a state"
    if shape.intermediate % (tp * shape.group):
        return f"{shape.intermediate} intermediate dimensions" + (f" in groups of {shape.group}" * (shape.group > 1))
    return f"{shape.quantized} weights" if tp > 1 and shape.quantized in UNSPLIT else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """How an engine is run on a card of this size: what its graphs and activations may take."""

    chunk: int
    batch: int
    prefill_graphs: bool

    @classmethod
    def on(cls, card_gb: float) -> "Runtime":
        if card_gb < SMALL_CARD_GB:
            return cls(chunk=2048, batch=16, prefill_graphs=False)
        return cls(chunk=4096, batch=64, prefill_graphs=True)

    def headroom_gb(self, role: Author, demand: Demand, tp: int) -> float:
        """What must stay free of weights and cache on each card: context, workspace, activations, logits, graphs."""
        shape = demand.shape
        # a guess and the token before it are verified together
        rows = max(self.batch * (demand.guesses + 1), LOGIT_ROWS if role == "base" else 0)
        # a matrix of logits and one of log-probabilities; gathering them from several cards takes one more
        logits = (2 + (tp > 1)) * 4 * rows * shape.vocabulary
        activations = 2 * 2 * self.chunk * (3 * shape.intermediate // tp + 6 * shape.hidden)
        graphs = self.batch * GRAPH_GB * (2 if demand.draft else 1) + (PREFILL_GRAPHS_GB if self.prefill_graphs else 0)
        return PROCESS_GB + WORKSPACE_GB + (logits + activations) / GIB + graphs
