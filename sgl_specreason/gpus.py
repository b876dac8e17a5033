"""Owns what is known of this machine's GPUs, without importing torch where NVIDIA's library can say it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: its name and memory in GiB."""

    name: str
    memory_gb: float


def found() -> list[Gpu]:
    """The GPUs of this machine; empty where there are none. Falls back to torch for other makers' cards."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return _by_torch()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
    return [
        Gpu(
            name=str(pynvml.nvmlDeviceGetName(handle)),
            memory_gb=pynvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30,
        )
        for handle in handles
    ]


def _by_torch() -> list[Gpu]:
    import torch

    if not torch.cuda.is_available():
        return []
    properties = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [Gpu(name=item.name, memory_gb=item.total_memory / 2**30) for item in properties]
