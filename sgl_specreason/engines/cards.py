"""Owns what this machine says of its GPUs. Any of NVIDIA's (NVML's) answers may be an error. Knows no plan and no engine."""

import os
import re
import subprocess
from dataclasses import dataclass
from typing import Any

GIB, MIB = 2**30, 2**20
ORDER, BY_BUS = "CUDA_DEVICE_ORDER", "PCI_BUS_ID"
UNIFIED = re.compile(r"\b(GB10|Orin|Thor|Xavier|Tegra)\b")
"""Cards without a memory of their own: NVML has none to tell, they share the machine's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU: its name, memory and free memory in GiB, and CUDA compute capability. None: not known."""

    name: str
    memory_gb: float | None
    free_gb: float | None = None
    capability: tuple[int, int] | None = None


def found() -> list[Gpu]:
    """The GPUs that engines see here, in the order in which they number them; empty where there are none.

    What NVML does not tell is taken from torch, and for cards that share it from the machine's memory.
    """
    nvml = _library()
    handles = _visible(nvml, os.environ.get("CUDA_VISIBLE_DEVICES"))
    if handles is None:
        return _by_torch()
    cards = [_card(nvml, handle) for handle in handles]
    if os.environ.get(ORDER, BY_BUS) != BY_BUS and len({card.name for card in cards}) > 1:
        return _by_torch() or cards  # NVML counts by bus, CUDA as the user wants, and which card is which matters
    return cards


def order() -> dict[str, str]:
    """What has engines number the cards as NVML and nvidia-smi do, unless the user has set an order."""
    return {} if ORDER in os.environ else {ORDER: BY_BUS}


def used_gb() -> list[float]:
    """What is used of each GPU that says it."""
    nvml = _library()
    if nvml is None:
        return _used_by_command()
    handles = _visible(nvml, os.environ.get("CUDA_VISIBLE_DEVICES")) or ()
    memory = [_said(nvml, "nvmlDeviceGetMemoryInfo", handle) for handle in handles]
    return [item.used / GIB for item in memory if item]


def driver() -> str:
    """The version of NVIDIA's driver; "" where nobody says it."""
    return _text(_said(_library(), "nvmlSystemGetDriverVersion")) or next(iter(_asked("driver_version")), "")


def _library() -> Any:
    """NVML's bindings; None where they are not installed, which SGLang itself can do without (0.5.16)."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _used_by_command() -> list[float]:
    """The same by nvidia-smi, of all cards: it does not heed $CUDA_VISIBLE_DEVICES."""
    return [int(word) * MIB / GIB for word in _asked("memory.used") if word.isdecimal()]


def _asked(field: str) -> list[str]:
    """What nvidia-smi says of each card; nothing where there is none."""
    command = ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines()]


def _said(nvml: Any, question: str, *words: Any) -> Any:
    """NVML's answer, or None: it may have any error, lack the function, or hold text in no known encoding."""
    try:
        return getattr(nvml, question)(*words)
    except Exception:  # not only its own errors: its bindings fail in ways of theirs
        return None


def _visible(nvml: Any, setting: str | None) -> list[Any] | None:
    """Handles in the order in which CUDA numbers them; None where NVIDIA's library does not answer.

    It does not heed $CUDA_VISIBLE_DEVICES, engines do. Of cards in MIG mode a process sees one slice, the first one that it
    is given (NVIDIA's MIG user guide).
    """
    _said(nvml, "nvmlInit")
    count = _said(nvml, "nvmlDeviceGetCount")
    if count is None:
        return None
    words = map(str, range(count)) if setting is None else (word.strip() for word in setting.split(","))
    handles = []
    for word in words:
        handle = _handle(nvml, word, count)
        if handle is None:
            break  # CUDA sees the cards before the first one that there is not
        if word.startswith("MIG-"):
            return [handle]
        if (_said(nvml, "nvmlDeviceGetMigMode", handle) or [0])[0]:
            most = _said(nvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0
            slices = (_said(nvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, number) for number in range(most))
            if first := next((found for found in slices if found is not None), None):
                return [first]
        else:
            handles.append(handle)
    return handles


def _handle(nvml: Any, word: str, count: int) -> Any:
    """The card of this number, or of this UUID or its beginning; None where there is none."""
    if word.isdecimal():
        return _said(nvml, "nvmlDeviceGetHandleByIndex", int(word))
    if (whole := _said(nvml, "nvmlDeviceGetHandleByUUID", word)) or not word.startswith("GPU-"):
        return whole
    handles = [_said(nvml, "nvmlDeviceGetHandleByIndex", index) for index in range(count)]
    alike = [handle for handle in handles if _text(_said(nvml, "nvmlDeviceGetUUID", handle)).startswith(word)]
    return alike[0] if len(alike) == 1 else None


def _card(nvml: Any, handle: Any) -> Gpu:
    name = _text(_said(nvml, "nvmlDeviceGetName", handle)) or "a GPU that does not tell its name"
    capability = _said(nvml, "nvmlDeviceGetCudaComputeCapability", handle)
    capability = tuple(capability) if capability else None
    memory = _said(nvml, "nvmlDeviceGetMemoryInfo", handle)
    if memory and memory.total:
        return Gpu(name=name, memory_gb=memory.total / GIB, free_gb=memory.free / GIB, capability=capability)
    if UNIFIED.search(name):
        import psutil  # type: ignore[import-untyped]

        machine = psutil.virtual_memory()
        return Gpu(name=name, memory_gb=machine.total / GIB, free_gb=machine.available / GIB, capability=capability)
    told = next((card for card in _by_torch() if card.name == name), Gpu(name=name, memory_gb=None))
    return Gpu(name=name, memory_gb=told.memory_gb, capability=capability or told.capability)


def _text(word: str | bytes | None) -> str:
    return word.decode("utf-8", "replace") if isinstance(word, bytes) else word or ""


def _by_torch() -> list[Gpu]:
    """The GPUs as torch sees them; of other makers than NVIDIA without a compute capability, which is CUDA's."""
    import torch

    try:
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        properties = [torch.cuda.get_device_properties(number) for number in range(count)]
    except (RuntimeError, AssertionError):  # a driver that does not fit
        return []
    amd = torch.version.hip
    return [
        Gpu(name=each.name, memory_gb=each.total_memory / GIB, capability=None if amd else (each.major, each.minor))
        for each in properties
    ]
