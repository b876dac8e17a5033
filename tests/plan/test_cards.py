"""What this machine's cards say, behind a stand-in for NVIDIA's library (NVML), and what a user's words for cards mean.

RECORDED answers were read in public reports, which are named; everything else here is made up.
"""

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pynvml
import pytest
import torch
from command_line import invoke

from sgl_specreason.engines import cards, footprint
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import gpus
from sgl_specreason.plan.gpus import Gpu, named

MIB = 2**20
RECORDED = {
    # names as nvidia-smi prints them, and the MiB of its memory.total: modal-labs/modal-client #2797 (H100, A100, A10, L40S, L4,
    # T4), and printouts of nvidia-smi in public repositories for the others; capabilities are of NVIDIA's published list
    "NVIDIA H100 80GB HBM3": (81559, (9, 0)), "NVIDIA A100-SXM4-80GB": (81920, (8, 0)),
    "NVIDIA A100-SXM4-40GB": (40960, (8, 0)), "NVIDIA A10": (23028, (8, 6)), "NVIDIA L4": (23034, (8, 9)),
    "NVIDIA L40S": (46068, (8, 9)), "NVIDIA H200": (143771, (9, 0)), "NVIDIA H100 NVL": (95830, (9, 0)),
    "NVIDIA GH200 480GB": (97871, (9, 0)), "NVIDIA H20": (97871, (9, 0)), "NVIDIA B200": (183359, (10, 0)),
    "NVIDIA GB200": (189471, (10, 0)), "NVIDIA B300 SXM6 AC": (275040, (10, 3)), "NVIDIA A10G": (23028, (8, 6)),
    "NVIDIA RTX A6000": (49140, (8, 6)), "NVIDIA RTX 6000 Ada Generation": (49140, (8, 9)),
    "NVIDIA RTX A5000": (24564, (8, 6)), "NVIDIA GeForce RTX 4090": (24564, (8, 9)),
    "NVIDIA GeForce RTX 5090": (32607, (12, 0)), "NVIDIA GeForce RTX 5080": (16303, (12, 0)),
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": (97887, (12, 0)), "Tesla T4": (15360, (7, 5)),
}  # fmt: skip


class Nvml:
    """A stand-in: each card is a dict of what it answers to a question; what it lacks is "not supported"."""

    def __init__(self, *found: dict[str, Any]) -> None:
        self.found = found

    def install(self, monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
        for name in ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", lambda: len(self.found))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", self.by_index)
        monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByUUID", self.by_uuid)
        for question in ("Name", "UUID", "MemoryInfo", "CudaComputeCapability", "MigMode", "MaxMigDeviceCount"):
            monkeypatch.setattr(pynvml, f"nvmlDeviceGet{question}", self.asked(question))
        monkeypatch.setattr(pynvml, "nvmlDeviceGetMigDeviceHandleByIndex", self.slice)

    def asked(self, question: str) -> Callable[[dict[str, Any]], Any]:
        def answer(card: dict[str, Any]) -> Any:
            if question not in card:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            return card[question]

        return answer

    def by_index(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self.found):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_INVALID_ARGUMENT)
        return self.found[index]

    def by_uuid(self, uuid: str) -> dict[str, Any]:
        everything = [*self.found, *(part for card in self.found for part in card.get("slices", []))]
        for card in everything:
            if card.get("UUID") == uuid:
                return card
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    @staticmethod
    def slice(card: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(card.get("slices", [])):
            raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)
        return card["slices"][index]  # type: ignore[no-any-return]


def card(name: str, mib: int | None = None, capability: tuple[int, int] | None = None, **more: Any) -> dict[str, Any]:
    answers: dict[str, Any] = {"Name": name, "MigMode": [0, 0], **more}
    if mib is not None:
        answers["MemoryInfo"] = SimpleNamespace(total=mib * MIB, free=(mib - 500) * MIB, used=500 * MIB)
    if capability is not None:
        answers["CudaComputeCapability"] = capability
    return answers


@pytest.mark.parametrize("name", RECORDED)
def test_a_cards_name_means_what_nvml_reports_of_it(name: str) -> None:
    """Its memory and what it can compute, as the name is printed and in any case."""
    mib, capability = RECORDED[name]
    for spec in (f"1x{name}", f"2x{name.lower()}"):
        assert {(gpu.memory_gb, gpu.capability) for gpu in named(spec)} == {(mib / 1024, capability)}


@pytest.mark.parametrize("name", RECORDED)
def test_what_a_card_can_compute_follows_from_its_name_where_nvml_does_not_tell(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mib, capability = RECORDED[name]
    Nvml(card(name, mib)).install(monkeypatch)
    assert gpus.found() == [Gpu(name=name, memory_gb=mib / 1024, free_gb=(mib - 500) / 1024, capability=capability)]


@pytest.mark.parametrize(
    ("spec", "count", "memory_gb"),
    [
        ("1xH100", 1, 81559 / 1024),
        ("1xh100-80gb", 1, 81559 / 1024),
        ("h100", 1, 81559 / 1024),
        ("4090", 1, 24564 / 1024),
        ("2X4090", 2, 24564 / 1024),
        ("8xA100-80", 8, 80.0),
        ("1xA100-40GB", 1, 40.0),
        ("1xL4-24", 1, 23034 / 1024),
        ("1xH100-64", 1, 64.0),
        ("1x24GB", 1, 24.0),
        ("2x22.5gib", 2, 22.5),
        ("1xA100-3g.40gb", 1, 39.25),
        ("1xNVIDIA A100-SXM4-80GB MIG 3g.40gb", 1, 39.25),
        ("1xGB10", 1, 124610 / 1024),
        ("1xMI300X", 1, 192 - 16 / 1024),
        ("1xRTX6000ADA", 1, 49140 / 1024),
        ("H100:2", 2, 81559 / 1024),
        ("h100x8", 8, 81559 / 1024),
        ("A100-80GB:4", 4, 80.0),
        ("A100:40GB", 1, 40.0),
        ("A100:40", 1, 40.0),
        ("2 x H100", 2, 81559 / 1024),
        ("2 H100", 2, 81559 / 1024),
        ("2*h100", 2, 81559 / 1024),
        ("4x A100 80GB", 4, 80.0),
        (" 2 x 80 ", 2, 80.0),
        ("80GB", 1, 80.0),
        ("3g.40gb", 1, 39.25),
        ("1xMIG 1g.10gb", 1, 9.25),
        ("1xH800", 1, 81559 / 1024),
        ("1xL20", 1, 46068 / 1024),
        ("4090x2", 2, 24564 / 1024),
        ("4090 x 2", 2, 24564 / 1024),
        ("1x RTX 3090 Ti", 1, 24.0),
    ],
)
def test_words_for_cards(spec: str, count: int, memory_gb: float) -> None:
    found = named(spec)
    assert (len(found), found[0].memory_gb) == (count, memory_gb)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("1xA100", "40 or 80 GB; say which"),
        ("1xV100", "16 or 32 GB"),
        ("1xZ9-80", "no card named Z9-80 is known; cards that are known are V100, .*GB10, MI300X"),
        ("lots", "wants COUNTxGB or COUNTxCARD.*H100"),
        ("1xH100-banana", "BANANA is not understood"),
        ("65xH100", "1 to 64 cards"),
        ("0xH100", "1 to 64 cards"),
        ("1xH100:2", "such cards have 80 GB, and not 2"),
        ("1xA100-400", "40 or 80 GB, and not 400"),
        ("80", "wants COUNTxGB"),
        ("", "wants COUNTxGB"),
        ("x", "wants COUNTxGB"),
        ("2x", "wants COUNTxGB"),
        ("1xMI250X", "no card named MI250X is known; .*of another one give the memory, as 1x48"),
        ("1xRTX 4090 Laptop GPU", "no card named"),
    ],
)
def test_words_that_mean_no_card_are_told_what_does(spec: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as refusal:
        named(spec)
    assert "\n" not in str(refusal.value)


def test_a_card_without_memory_of_its_own_has_the_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """GB10. Recorded: "NVIDIA GB10", memory NVML_ERROR_NOT_SUPPORTED, MemTotal 127600748 kB (XuehaiPan/nvitop #208)."""
    Nvml(card("NVIDIA GB10", None, (12, 1))).install(monkeypatch)
    total, free = 127600748 * 1024, 118566368 * 1024
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(total=total, available=free))
    assert gpus.found() == [Gpu(name="NVIDIA GB10", memory_gb=total / 2**30, free_gb=free / 2**30, capability=(12, 1))]
    assert footprint.measured({}) == {}
    result = invoke("eval", "--bench", "demo", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "on 1 x NVIDIA GB10 (122 GB)" in result.stdout
    assert "NVIDIA GB10: its memory is the machine's" in result.stdout


def tells_nothing(*questions: str) -> dict[str, Any]:
    whole = card("NVIDIA H100 80GB HBM3", 81559, (9, 0), UUID="GPU-1")
    return {question: answer for question, answer in whole.items() if question not in questions}


@pytest.mark.parametrize(
    "lacking", [("Name",), ("MemoryInfo",), ("CudaComputeCapability",), ("MigMode",), tuple(tells_nothing())], ids=str
)
def test_any_answer_may_be_an_error(lacking: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Never a traceback; without its memory the plan asks for fixed shares, and says so."""
    Nvml(tells_nothing(*lacking)).install(monkeypatch)
    for words in (["--bench", "demo"], ["--list"]):
        result = invoke("eval", *words, "--dry-run")
        assert (result.exit_code, result.stderr) == (0, "")
    assert len(gpus.found()) == 1
    assert footprint.measured({}) == ({} if "MemoryInfo" in lacking else {"gpu_used_gb": [500 / 1024]})
    if "MemoryInfo" in lacking:
        result = invoke("eval", "--bench", "demo", "--dry-run")
        assert "(memory unknown)" in result.stdout
        assert "unknown: the cards' memory; fixed shares" in result.stdout


@pytest.mark.parametrize("question", ["nvmlInit", "nvmlDeviceGetCount"])
def test_a_library_that_does_not_answer_is_no_card(question: str, monkeypatch: pytest.MonkeyPatch) -> None:
    Nvml(card("NVIDIA L4", 23034)).install(monkeypatch)

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_DRIVER_NOT_LOADED)

    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", fail)
    monkeypatch.setattr(pynvml, question, fail)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpus.found() == []
    assert footprint.measured({}) == {}


def seen_by_torch(
    monkeypatch: pytest.MonkeyPatch, *found: tuple[str, float, tuple[int, int]], hip: str | None = None
) -> None:
    properties = [
        SimpleNamespace(name=name, total_memory=int(gib * 2**30), major=at[0], minor=at[1]) for name, gib, at in found
    ]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(properties))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
    monkeypatch.setattr(torch.version, "hip", hip)


def test_what_nvml_does_not_tell_torch_may(monkeypatch: pytest.MonkeyPatch) -> None:
    Nvml(card("NVIDIA L4")).install(monkeypatch)
    seen_by_torch(monkeypatch, ("NVIDIA L4", 22.0, (8, 9)))
    assert cards.found() == [Gpu(name="NVIDIA L4", memory_gb=22.0, capability=(8, 9))]


def test_the_compute_capability_of_other_makers_cards_is_not_cudas(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch gives gfx942 as 9.4, which is no Hopper."""

    def fail() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    monkeypatch.setattr(pynvml, "nvmlInit", fail)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetCount", fail)
    seen_by_torch(monkeypatch, ("AMD Instinct MI300X", 191.98, (9, 4)), hip="7.0")
    (found,) = gpus.found()
    assert (found.memory_gb, found.capability) == (pytest.approx(191.98), None)
    assert gpus.notes([found]) == [
        "AMD Instinct MI300X: AMD: only its memory is known here, and nothing was tried on it"
    ]


def slices(*uuids: str, mib: int = 19968) -> list[dict[str, Any]]:
    """Recorded: 19968 MiB of 2g.20gb (XuehaiPan/nvitop #8); made up: that a slice's capability is not supported."""
    return [card("NVIDIA A100-SXM4-80GB MIG 2g.20gb", mib, UUID=uuid) for uuid in uuids]


def test_of_a_card_in_mig_mode_its_first_slice_is_planned_with(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded: mode [1, 1], at most 7 slices, and the whole card's memory for the card itself (XuehaiPan/nvitop #5)."""
    whole = card(
        "NVIDIA A100-SXM4-80GB", 81920, (8, 0), MigMode=[1, 1], MaxMigDeviceCount=7, slices=slices("MIG-a", "MIG-b")
    )
    Nvml(whole).install(monkeypatch)
    (found,) = gpus.found()
    assert (found.name, found.memory_gb, found.capability) == ("NVIDIA A100-SXM4-80GB MIG 2g.20gb", 19.5, (8, 0))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-b,MIG-a")  # a process sees one
    assert gpus.found() == [found]
    Nvml(whole | {"slices": []}).install(monkeypatch)
    assert gpus.found() == []  # CUDA sees none either


def test_the_beginning_of_a_uuid_names_a_card(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (card("NVIDIA L4", 23034, UUID="GPU-abc1"), card("NVIDIA L40S", 46068, UUID="GPU-abd2"))
    Nvml(*both).install(monkeypatch)
    for setting, names in (
        ("GPU-abd", ["NVIDIA L40S"]),
        ("GPU-ab", []),
        ("1,0", ["NVIDIA L40S", "NVIDIA L4"]),
        ("", []),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", setting)
        assert [gpu.name for gpu in gpus.found()] == names


def test_engines_number_the_cards_as_the_plan_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two unlike cards: NVML counts by bus, CUDA the fastest first unless it is told."""
    slow_first = (card("NVIDIA RTX A5000", 24564, (8, 6)), card("NVIDIA GeForce RTX 4090", 24564, (8, 9)))
    Nvml(*slow_first).install(monkeypatch)
    seen_by_torch(monkeypatch, ("NVIDIA GeForce RTX 4090", 23.5, (8, 9)), ("NVIDIA RTX A5000", 23.5, (8, 6)))
    assert [gpu.name for gpu in gpus.found()] == ["NVIDIA RTX A5000", "NVIDIA GeForce RTX 4090"]
    planned = invoke("eval", "--bench", "demo", "--dry-run").stdout
    assert planned.count("CUDA_DEVICE_ORDER=PCI_BUS_ID") == 2
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")  # the user's, and followed
    assert [gpu.name for gpu in gpus.found()] == ["NVIDIA GeForce RTX 4090", "NVIDIA RTX A5000"]
    assert "CUDA_DEVICE_ORDER=" not in invoke("eval", "--bench", "demo", "--dry-run").stdout
    assert os.environ["CUDA_DEVICE_ORDER"] == "FASTEST_FIRST"


def test_a_card_that_sglang_does_not_start_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Nvml(card("Tesla V100-SXM2-32GB", 32510, (7, 0))).install(monkeypatch)
    result = invoke("eval", "--bench", "demo", "--dry-run")
    assert result.exit_code == 2
    assert result.stderr == "error: Tesla V100-SXM2-32GB: compute capability 7.0, and SGLang needs 7.5\n"


def test_without_nvmls_bindings_nvidia_smi_and_torch_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang 0.5.16 needs no bindings: a machine that only has its packages had no cards at all, and an ImportError."""
    monkeypatch.setitem(sys.modules, "pynvml", None)
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\ncase "$1" in *memory.used) printf "2048\\n[N/A]\\n" ;; *) echo 580.65 ;; esac\n')
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert (cards.used_gb(), cards.driver()) == ([2.0], "580.65")
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert (cards.used_gb(), cards.driver()) == ([], "")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cards.found() == []
