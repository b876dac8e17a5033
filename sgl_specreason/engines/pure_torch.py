"""Owns the platform that SGLang serves with where `cpu_platform.py` says so: its CPU path without its compiled kernels.

Knows nothing of SpecReason. Imported by SGLang's server processes only.
"""

from collections.abc import Callable
from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform

from sgl_specreason.engines.cpu_kernels import Span, attention, layouts, likely, seeded_choice

ENCODER_LENS = {"_run_sdpa_forward_extend": 5, "_run_sdpa_forward_decode": 3}
"""SGLang's torch attention, and the place of an encoder's lengths among the arguments after the caches."""


class PureTorchPlatform(CpuDeviceMixin, SRTPlatform):  # type: ignore[misc]  # sglang ships no types
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

        batch_invariant_ops.enable_batch_invariant_mode = lambda: None
        sampler.multinomial_with_seed = seeded_choice
        sampler.top_k_top_p_min_p_sampling_from_probs_torch = _draw(sampler.top_k_top_p_min_p_sampling_from_probs_torch)
        TorchNativeAttnBackend.init_forward_metadata = _begin(TorchNativeAttnBackend.init_forward_metadata)
        for name in ENCODER_LENS:
            setattr(TorchNativeAttnBackend, name, _attend(getattr(TorchNativeAttnBackend, name)))

    def get_default_attention_backend(self) -> str:
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        return "native"

    def get_compile_backend(self, mode: str | None = None) -> str:
        return "eager"


def _draw(whole: Callable[..., Any]) -> Callable[..., Any]:
    """SGLang's sampling, without its assertion that nobody asks for min_p while seeds draw: the server would die of it.

    What it is about is a sum that is not 1, which `seeded_choice` does not need.
    """

    def draw(
        probs: Any, top_ks: Any, top_ps: Any, min_ps: Any, need_min_p_sampling: bool, *more: Any, **options: Any
    ) -> Any:
        kept = likely(probs, min_ps) if need_min_p_sampling else probs
        return whole(kept, top_ks, top_ps, min_ps, False, *more, **options)

    return draw


def _begin(whole: Callable[..., None]) -> Callable[..., None]:
    """SGLang's start of a batch, and how the batch is computed here."""

    def begin(self: Any, forward_batch: Any) -> None:
        whole(self, forward_batch)
        rows, lengths = forward_batch.req_pool_indices.tolist(), forward_batch.seq_lens.tolist()
        decode = forward_batch.forward_mode.is_decode()
        new = [1] * len(rows) if decode else forward_batch.extend_seq_lens.tolist()
        spans = list(map(Span, rows, lengths, new))
        self.forward_metadata = layouts(spans, self.req_to_token_pool.req_to_token) if spans else []

    return begin


def _attend(whole: Callable[..., Any]) -> Callable[..., Any]:
    """The attention here, and SGLang's own (`whole`) for what is not an ordinary decoder's."""
    name = whole.__name__

    def attend(self: Any, query: Any, output: Any, k_cache: Any, v_cache: Any, *others: Any, **options: Any) -> Any:
        if not _is_plain(name, options) or any(item is not None for item in others[ENCODER_LENS[name] :]):
            return whole(self, query, output, k_cache, v_cache, *others, **options)
        attention(
            query, output, k_cache, v_cache, self.forward_metadata,
            scaling=options.get("scaling"), enable_gqa=options.get("enable_gqa", False),
        )  # fmt: skip
        return output

    return attend


def _is_plain(name: str, options: dict[str, Any]) -> bool:
    """Whether this is the attention of an ordinary decoder, over everything before."""
    window, causal = options.get("sliding_window_size"), options.get("causal") or name.endswith("decode")
    return bool(causal) and not options.get("is_cross_attn") and (window is None or window < 0)
