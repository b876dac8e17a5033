"""Owns the SGLang platform plugin that serves in pure torch on a machine without a GPU.

Knows nothing of SpecReason. Loaded by SGLang's server processes through the entry-point group
`sglang.srt.platforms`; where torch sees an accelerator, SGLang's own platform is used.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

PADDING = 4
"""Requests of different lengths are computed together while that wastes less than this factor."""


def activate() -> str | None:
    """The platform class for SGLang to use.

    None where torch finds a GPU, the user asked for another CPU engine, or SGLang is too old for this one (0.5.16 is).
    """
    import os

    import torch

    if os.environ.get("SGLANG_USE_CPU_ENGINE", "0") == "1":
        return None
    for backend in ("cuda", "xpu", "mps", "npu"):
        device = getattr(torch, backend, None)
        if device is not None and device.is_available():
            return None
    try:
        from sglang.srt.platforms.interface import PlatformCapabilities  # noqa: F401
    except ImportError:
        return None
    return "sgl_specreason.engines.cpu_platform.PureTorchPlatform"


def seeded_choice(logprobs: "torch.Tensor", seed: "torch.Tensor", positions: "torch.Tensor") -> "torch.Tensor":
    """One column per row, drawn by the Gumbel-max trick with noise that is a hash of (seed, position, column).

    `logprobs` is (rows, columns), natural logarithms up to a constant per row; `seed` and `positions` are (rows,). Returns
    (rows, 1). The same row gets the same column whatever it is batched with. Mixing steps: SplitMix64.
    """
    import torch

    columns = torch.arange(logprobs.shape[1], device=logprobs.device)
    rows = seed.to(torch.int64) * -0x61C8864680B583EB + positions.to(torch.int64)
    mixed = _mixed(_mixed(rows)[:, None] + columns)
    uniform = ((mixed >> 11) & (2**53 - 1)).to(torch.float64).add_(0.5) / 2.0**53
    return torch.argmax(logprobs.to(torch.float64) - (-uniform.log()).log(), dim=1, keepdim=True)


def _mixed(x: "torch.Tensor") -> "torch.Tensor":
    """The finaliser of SplitMix64 on int64 values that stand for 64 bits (multiplication wraps, shifts are made logical)."""
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


class Span(NamedTuple):
    """One request in a batch: its row of the token table, its length in tokens, and how many of these are new."""

    row: int
    length: int
    new: int


class Layout(NamedTuple):
    """Requests that are computed together: which new tokens are theirs, where their context lies, what each may see.

    `tokens` is a slice of the batch's new tokens, `slots` (requests, positions), `mask` (requests, 1, new, positions) or
    None where everything is seen, `real` (requests, new) or None where all have as many new tokens.
    """

    tokens: slice
    slots: "torch.Tensor"
    mask: "torch.Tensor | None"
    real: "torch.Tensor | None"


def layouts(spans: list[Span], req_to_token: "torch.Tensor", start: int = 0) -> list[Layout]:
    """How a batch is computed: all at once where its requests are alike, else one by one."""
    import torch

    most_new, longest = max(span.new for span in spans), max(span.length for span in spans)
    if len(spans) * most_new * longest > PADDING * sum(span.new * span.length for span in spans):
        found = []
        for span in spans:
            found += layouts([span], req_to_token, start)
            start += span.new
        return found
    tokens = slice(start, start + sum(span.new for span in spans))
    if len(spans) == 1 and most_new == 1:
        return [Layout(tokens, req_to_token[spans[0].row, None, :longest], None, None)]
    lengths = torch.tensor([span.length for span in spans])
    seen = (lengths - torch.tensor([span.new for span in spans]))[:, None] + torch.arange(most_new)
    mask = torch.arange(longest) <= seen[:, None, :, None]
    real = None if all(span.new == most_new for span in spans) else seen < lengths[:, None]
    return [Layout(tokens, req_to_token[[span.row for span in spans], :longest], mask, real)]


def attention(
    query: "torch.Tensor",
    output: "torch.Tensor",
    k_cache: "torch.Tensor",
    v_cache: "torch.Tensor",
    batch: list[Layout],
    *,
    scaling: float | None,
    enable_gqa: bool,
) -> None:
    """Causal attention of each request's new tokens over its whole context, into `output`.

    `query` and `output` are (new tokens of all requests, heads, size), the caches (slots, key heads, size).
    """
    from torch.nn.functional import scaled_dot_product_attention

    for tokens, slots, mask, real in batch:
        asked = query[tokens]
        if real is None:
            asked = asked.reshape(len(slots), -1, *query.shape[1:])
        else:
            padded = query.new_zeros(*real.shape, *query.shape[1:])
            padded[real] = asked
            asked = padded
        attended = scaled_dot_product_attention(
            asked.transpose(1, 2),
            _gathered(k_cache, slots).to(query.dtype),
            _gathered(v_cache, slots).to(query.dtype),
            attn_mask=mask,
            scale=scaling,
            enable_gqa=enable_gqa,
        ).transpose(1, 2)
        output[tokens] = attended.reshape(-1, *output.shape[1:]) if real is None else attended[real]


def _gathered(cache: "torch.Tensor", slots: "torch.Tensor") -> "torch.Tensor":
    """The cache's rows at `slots` as (requests, key heads, positions, size); five times as fast as indexing with them."""
    return cache.index_select(0, slots.reshape(-1)).view(*slots.shape, *cache.shape[1:]).transpose(1, 2)


ENCODER_LENS = {"_run_sdpa_forward_extend": 5, "_run_sdpa_forward_decode": 3}
"""SGLang's torch attention, and the place of an encoder's lengths among the arguments after the caches."""


def _plain(name: str, options: dict[str, Any]) -> bool:
    """Whether this is the attention of an ordinary decoder, over everything before."""
    window, causal = options.get("sliding_window_size"), options.get("causal") or name.endswith("decode")
    return bool(causal) and not options.get("is_cross_attn") and (window is None or window < 0)


def __getattr__(name: str) -> Any:
    """Builds the class on first use, so that importing this module does not import SGLang."""
    if name != "PureTorchPlatform":
        raise AttributeError(name)
    from sglang.srt.platforms.cpu import CpuDeviceMixin
    from sglang.srt.platforms.device_mixin import PlatformEnum
    from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

    class PureTorchPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]
        """CPU without SGLang's compiled CPU kernels: torch attention, eager execution."""

        _enum = PlatformEnum.OOT
        capabilities = PlatformCapabilities()

        def apply_server_args_defaults(self, server_args: Any) -> None:
            """Allows seeded sampling (--enable-deterministic-inference) with torch's own attention."""
            from sglang.srt import server_args as arguments

            arguments.add_deterministic_attention_backend_choices(["torch_native"])
            arguments.add_radix_supported_deterministic_attention_backend_choices(["torch_native"])

        def init_backend(self) -> None:
            """Seeded sampling without its GPU parts (batch-invariant kernels in Triton), and attention that uses cache and batch.

            SGLang's torch attention computes a prefill for the whole context, cached or not, and throws that part away, so
            that a judge's request would cost O(context^2) and not O(context x step); and it takes a batch one by one.
            """
            from sglang.srt import batch_invariant_ops
            from sglang.srt.layers import sampler
            from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

            def begin(self: Any, forward_batch: Any) -> None:
                whole_begin(self, forward_batch)
                rows, lengths = forward_batch.req_pool_indices.tolist(), forward_batch.seq_lens.tolist()
                decode = forward_batch.forward_mode.is_decode()
                new = [1] * len(rows) if decode else forward_batch.extend_seq_lens.tolist()
                spans = list(map(Span, rows, lengths, new))
                self.forward_metadata = layouts(spans, self.req_to_token_pool.req_to_token) if spans else []

            def run(whole: Any) -> Any:
                def attend(
                    self: Any, query: Any, output: Any, k_cache: Any, v_cache: Any, *others: Any, **options: Any
                ) -> Any:
                    if not _plain(whole.__name__, options) or any(
                        item is not None for item in others[ENCODER_LENS[whole.__name__] :]
                    ):
                        return whole(self, query, output, k_cache, v_cache, *others, **options)
                    attention(
                        query, output, k_cache, v_cache, self.forward_metadata,
                        scaling=options.get("scaling"), enable_gqa=options.get("enable_gqa", False),
                    )  # fmt: skip
                    return output

                return attend

            whole_begin = TorchNativeAttnBackend.init_forward_metadata
            TorchNativeAttnBackend.init_forward_metadata = begin
            for name in ENCODER_LENS:
                setattr(TorchNativeAttnBackend, name, run(getattr(TorchNativeAttnBackend, name)))
            batch_invariant_ops.enable_batch_invariant_mode = lambda: None
            sampler.multinomial_with_seed = seeded_choice

        def get_default_attention_backend(self) -> str:
            return "torch_native"

        def get_dispatch_key_name(self) -> str:
            return "native"

        def get_compile_backend(self, mode: str | None = None) -> str:
            return "eager"

    globals()[name] = PureTorchPlatform
    return PureTorchPlatform
