"""Owns the choice of the SGLang platform that serves in pure torch on a machine without a GPU (`pure_torch.py`).

Knows nothing of SpecReason. Loaded by SGLang's server processes through the entry-point group
`sglang.srt.platforms`; where torch sees an accelerator, SGLang's own platform is used.
"""


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
    return "sgl_specreason.engines.pure_torch.PureTorchPlatform"
