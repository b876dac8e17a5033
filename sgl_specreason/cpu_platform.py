"""Owns the SGLang platform plugin that serves in pure torch on a machine without a GPU.

Knows nothing of SpecReason. Loaded by SGLang's server processes through the entry-point group
`sglang.srt.platforms`; where torch sees an accelerator, SGLang's own platform is used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


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
    return "sgl_specreason.cpu_platform.PureTorchPlatform"


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


def extend_attention(
    query: "torch.Tensor",
    output: "torch.Tensor",
    k_cache: "torch.Tensor",
    v_cache: "torch.Tensor",
    req_to_token: "torch.Tensor",
    requests: list[tuple[int, int, int]],
    *,
    scaling: float | None,
    enable_gqa: bool,
) -> None:
    """Causal attention of each request's new tokens over its whole context, into `output`.

    `query` and `output` are (new tokens of all requests, heads, size), the caches (slots, key heads, size),
    `req_to_token` (rows, positions). `requests` holds each one's row, length, and how much of it is cached.
    """
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    start = 0
    for row, length, cached in requests:
        new = length - cached
        slots = req_to_token[row, :length]
        mask = None
        if cached and new > 1:
            mask = torch.ones(new, length, dtype=torch.bool, device=query.device).tril_(cached)
        attended = scaled_dot_product_attention(
            query[start : start + new].transpose(0, 1)[None],
            k_cache[slots].transpose(0, 1)[None],
            v_cache[slots].transpose(0, 1)[None],
            attn_mask=mask,
            is_causal=not cached,
            scale=scaling,
            enable_gqa=enable_gqa,
        )
        output[start : start + new] = attended[0].transpose(0, 1)
        start += new


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
            """Seeded sampling without its GPU parts (batch-invariant kernels in Triton), and attention for new tokens only.

            SGLang's torch attention computes a prefill for the whole context, cached or not, and throws that part away: a
            judge's request would cost O(context^2) and not O(context x step).
            """
            from sglang.srt import batch_invariant_ops
            from sglang.srt.layers import sampler
            from sglang.srt.layers.attention.torch_native_backend import TorchNativeAttnBackend

            whole = TorchNativeAttnBackend._run_sdpa_forward_extend

            def new_only(
                self: Any, query: Any, output: Any, k_cache: Any, v_cache: Any, req_to_token: Any, rows: Any,
                lengths: Any, cached: Any, new: Any, encoder_lens: Any = None, **options: Any,
            ) -> Any:  # fmt: skip
                window = options.get("sliding_window_size")
                if encoder_lens is not None or not options.get("causal") or (window is not None and window > -1):
                    return whole(
                        self, query, output, k_cache, v_cache, req_to_token, rows, lengths, cached, new, encoder_lens,
                        **options,
                    )  # fmt: skip
                requests = list(zip(rows.tolist(), lengths.tolist(), cached.tolist(), strict=True))
                extend_attention(
                    query, output, k_cache.to(query.dtype), v_cache.to(query.dtype), req_to_token, requests,
                    scaling=options.get("scaling"), enable_gqa=options.get("enable_gqa", False),
                )  # fmt: skip
                return output

            TorchNativeAttnBackend._run_sdpa_forward_extend = new_only

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
