"""Owns what a model's published shape says of its weights and of its cache's bytes (pure). Knows no cards.

A GB is 2**30 bytes throughout.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from sgl_specreason.errors import UsageError
from sgl_specreason.typed import LARGEST, Positive

GIB = 2**30
Quantization = Literal["none", "fp8", "fp8-checkpoint"]
"""fp8: a bfloat16 checkpoint that SGLang quantises when it has loaded it. fp8-checkpoint: its weights are 8 bits already."""


class State(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What layers without a cache keep of a whole context (Gated DeltaNet): a matrix per head, and a convolution's last inputs.

    One of `groups` of keys serves several `heads`. `size` is that of a key, `bits` are those of a matrix' entries.
    """

    layers: Positive
    groups: Positive
    heads: Positive
    head_dim: Positive
    size: Positive
    kernel: Positive
    bits: Literal[16, 32] = 32

    def bytes(self, tp: int = 1) -> int:
        """Of one such state of a context on each of `tp` cards (configs/mamba_utils.py of SGLang 0.5.23)."""
        inputs = (self.heads * self.head_dim + 2 * self.groups * self.size) // tp * (self.kernel - 1)
        return self.layers * (inputs * 2 + self.heads // tp * self.head_dim * self.size * self.bits // 8)

    def parameters(self, hidden: int) -> int:
        """Of a layer that keeps it, beside those that an attention layer has too: projections in and out, convolution."""
        keys, values = self.groups * self.size, self.heads * self.head_dim
        return hidden * (2 * keys + 3 * values + 2 * self.heads) + (2 * keys + values) * self.kernel


class Shape(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the arithmetic needs of a model's config.json. `parameters_b` is for models that are no dense transformers.

    `bits` is what a weight of a layer takes in a checkpoint that is `quantized` (the method, as config.json names it), scales
    included, of which there is one for a `group` of weights. `checkpoint_gb` is the size of its files, where they are here. Of a
    hybrid, `layers` are all layers, and those of its `state` have no cache; `gated` says that its attention has an output gate.
    """

    layers: Positive
    hidden: Positive
    intermediate: Positive
    heads: Positive
    kv_heads: Positive
    head_dim: Positive
    vocabulary: Positive
    context: Positive
    tied: bool = False
    parameters_b: Annotated[float, Meta(ge=0.001, le=LARGEST)] | None = None
    bits: Annotated[float, Meta(ge=1, le=32)] = 16
    quantized: str = ""
    group: Positive = 1
    checkpoint_gb: Annotated[float, Meta(gt=0, le=LARGEST)] | None = None
    state: State | None = None
    gated: bool = False

    def __post_init__(self) -> None:
        if self.state and self.state.layers > self.layers:
            raise UsageError(f"state.layers = {self.state.layers}: there are {self.layers} layers")

    @property
    def cached_layers(self) -> int:
        """Those that have a cache."""
        return self.layers - (self.state.layers if self.state else 0)

    @property
    def embeddings(self) -> int:
        """Parameters of the embeddings and the output, which stay at 16 bits when the layers are quantised."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def parameters(self) -> int:
        """All parameters; biases are too few to matter."""
        if self.parameters_b is not None:
            return round(self.parameters_b * 1e9)
        attention = self.hidden * self.head_dim * ((2 + self.gated) * self.heads + 2 * self.kv_heads)
        mixing = self.cached_layers * attention
        if self.state:
            mixing += self.state.layers * self.state.parameters(self.hidden)
        layer = 3 * self.hidden * self.intermediate + 2 * self.hidden
        return mixing + self.layers * layer + self.embeddings + self.hidden

    def weights_gb(self, quantization: Quantization = "none") -> float:
        """The weights as they come, or with the layers at 8 bits."""
        if self.checkpoint_gb and quantization != "fp8":
            return self.checkpoint_gb
        bits = self.bits if quantization == "none" else min(8, self.bits)
        return ((self.parameters - self.embeddings) * bits / 8 + self.embeddings * 2) / GIB

    def kv_bytes(self, tp: int = 1) -> int:
        """Of a token on each of `tp` cards, at 16 bits. Fewer key-value heads than cards: each card has a whole one."""
        return 2 * self.cached_layers * max(1, self.kv_heads // tp) * self.head_dim * 2
