"""Owns what is known of GPUs: this machine's, or those that a user names. Imports torch only for other makers' than NVIDIA."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sgl_specreason.errors import UsageError
from sgl_specreason.text.steps import Author

MOST_CARDS, MOST_GB = 64, 10_000
CAPABILITIES = {
    "T4": (7, 5), "A10": (8, 6), "A30": (8, 0), "A40": (8, 6), "A100": (8, 0), "A6000": (8, 6), "3090": (8, 6),
    "L4": (8, 9), "L40": (8, 9), "L40S": (8, 9), "4090": (8, 9), "RTX6000ADA": (8, 9),
    "H20": (9, 0), "H100": (9, 0), "H200": (9, 0), "GH200": (9, 0),
    "B200": (10, 0), "GB200": (10, 0), "B300": (10, 3), "5090": (12, 0), "RTXPRO6000": (12, 0),
}  # fmt: skip
"""CUDA compute capabilities by the names that --gpus takes."""
FLASH_HEADS = (64, 128, 256)
FP8 = (8, 9)
"""The first capability whose tensor cores multiply 8-bit floats."""
_SPEC = re.compile(r"(\d{1,4})x(?:([A-Za-z0-9]+)-)?(\d{1,6}(?:\.\d{1,3})?)", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: its name, memory and free memory in GiB, and CUDA compute capability. None: not known."""

    name: str
    memory_gb: float
    free_gb: float | None = None
    capability: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The attention kernels that an engine is asked to use, and why. None leaves it to SGLang."""

    backend: str | None
    why: str


def found() -> list[Gpu]:
    """The GPUs that CUDA programs see here; empty where there are none. Falls back to torch for other makers' cards."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return _by_torch()
    cards = []
    for handle in _visible(pynvml, os.environ.get("CUDA_VISIBLE_DEVICES")):
        memory = pynvml.nvmlDeviceGetMemoryInfo(handle)
        major, minor = pynvml.nvmlDeviceGetCudaComputeCapability(handle)
        cards.append(
            Gpu(
                name=str(pynvml.nvmlDeviceGetName(handle)),
                memory_gb=memory.total / 2**30,
                free_gb=memory.free / 2**30,
                capability=(major, minor),
            )
        )
    return cards


def _visible(nvml: Any, setting: str | None) -> list[Any]:
    """Handles in the order in which CUDA numbers them. NVIDIA's library does not heed $CUDA_VISIBLE_DEVICES, engines do."""
    if setting is None:
        return [nvml.nvmlDeviceGetHandleByIndex(i) for i in range(nvml.nvmlDeviceGetCount())]
    handles = []
    for word in (part.strip() for part in setting.split(",")):
        try:
            by_index = word.isdecimal()
            handles.append(
                nvml.nvmlDeviceGetHandleByIndex(int(word)) if by_index else nvml.nvmlDeviceGetHandleByUUID(word)
            )
        except nvml.NVMLError:
            break  # CUDA sees the cards before the first one that there is not
    return handles


def _by_torch() -> list[Gpu]:
    import torch

    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Gpu(name=item.name, memory_gb=item.total_memory / 2**30) for item in properties]


def named(spec: str) -> list[Gpu]:
    """The GPUs of `--gpus`: COUNTxGB or COUNTxNAME-GB. Raises UsageError."""
    match = _SPEC.fullmatch(spec)
    if match is None:
        raise UsageError(f"--gpus {spec}: wants COUNTxGB or COUNTxNAME-GB, as 2x80 or 1xH100-80")
    count, name, memory_gb = int(match[1]), match[2], float(match[3])
    if not 1 <= count <= MOST_CARDS or not 1 <= memory_gb <= MOST_GB:
        raise UsageError(f"--gpus {spec}: wants 1 to {MOST_CARDS} cards of 1 to {MOST_GB} GB")
    if name is not None and name.upper() not in CAPABILITIES:
        raise UsageError(f"--gpus {spec}: no card named {name} is known; there are {', '.join(CAPABILITIES)}")
    capability = CAPABILITIES[name.upper()] if name else None
    return [Gpu(name=name or "GPU", memory_gb=memory_gb, capability=capability)] * count


def attention(capability: tuple[int, int] | None, head_dims: list[int]) -> Attention:
    """What suits cards of this capability with pages of one token, which exact prefix reuse needs.

    SGLang's own choices were read in 0.5.23 (arg_groups/model_override_base.py, get_default_attn_backend) and overrides.py.
    """
    if capability is None:
        return Attention(backend=None, why="SGLang's own choice, since the cards' compute capability is not known")
    words = f"compute capability {capability[0]}.{capability[1]}"
    odd = sorted(set(head_dims) - set(FLASH_HEADS))
    if odd:
        return Attention(backend="triton", why=f"heads of {odd[0]} dimensions have no FlashInfer or FA3 kernels")
    if capability < (7, 5):
        return Attention(backend="triton", why=f"FlashInfer has no kernels for {words}")
    if capability[0] == 9:
        return Attention(
            backend="fa3",
            why=f"Hopper ({words}): SGLang's default there, since FlashInfer's kernels became slower on it (sglang issue 17411)",
        )
    if capability[0] == 10:
        return Attention(
            backend="flashinfer",
            why=f"Blackwell ({words}): SGLang's default there, trtllm_mha, only works with pages of 16 tokens or more",
        )
    return Attention(backend="flashinfer", why=f"{words}: also SGLang's default")


def of_one_replica(cards: Sequence[Gpu], counts: dict[Author, int]) -> list[Gpu]:
    """The cards of one replica of each engine: as many groups of neighbours as there are replicas, reckoned with the fullest.

    Raises UsageError where there are fewer cards than replicas.
    """
    role = max(counts, key=counts.__getitem__)
    most, size = counts[role], len(cards) // counts[role]
    if not size:
        raise UsageError(f"--{role}-replicas {most}: each needs a card of its own, and there are {len(cards)}")
    groups = [cards[size * number : size * (number + 1)] for number in range(most)]
    return [min(alike, key=_free_gb) for alike in zip(*groups, strict=True)]


def _free_gb(card: Gpu) -> float:
    return card.memory_gb if card.free_gb is None else card.free_gb
