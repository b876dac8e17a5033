"""Owns what is known of GPUs by their names, which of them a user means, and the kernels that suit them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from sgl_specreason.engines import cards as machine
from sgl_specreason.engines.cards import Gpu
from sgl_specreason.errors import UsageError
from sgl_specreason.text.steps import Author

__all__ = ["Gpu"]
MOST_CARDS, MOST_GB = 64, 10_000
MIB_PER_GB = 1024


class Known(NamedTuple):
    """A kind of card: its CUDA compute capability, and for each size that its name may say the MiB that NVML reports."""

    capability: tuple[int, int] | None
    mib: dict[int, int]
    note: str = ""


KNOWN = {
    "V100": Known((7, 0), {16: 16160, 32: 32510}), "T4": Known((7, 5), {16: 15360}),
    "A10": Known((8, 6), {24: 23028}), "A10G": Known((8, 6), {24: 23028}), "A30": Known((8, 0), {24: 24576}),
    "A40": Known((8, 6), {48: 46068}), "A100": Known((8, 0), {40: 40960, 80: 81920}),
    "A4000": Known((8, 6), {16: 16376}), "A5000": Known((8, 6), {24: 24564}), "A6000": Known((8, 6), {48: 49140}),
    "3090": Known((8, 6), {24: 24576}), "4080": Known((8, 9), {16: 16376}), "4090": Known((8, 9), {24: 24564}),
    "L4": Known((8, 9), {24: 23034}), "L40": Known((8, 9), {48: 46068}), "L40S": Known((8, 9), {48: 46068}),
    "L20": Known((8, 9), {48: 46068}),
    "6000ADA": Known((8, 9), {48: 49140}), "H20": Known((9, 0), {96: 97871}), "H100": Known((9, 0), {80: 81559}),
    "H100NVL": Known((9, 0), {94: 95830}), "H800": Known((9, 0), {80: 81559}), "H200": Known((9, 0), {141: 143771}),
    "GH200": Known((9, 0), {96: 97871, 120: 97871, 480: 97871}),  # 120 and 480 are of the processor beside it
    "B200": Known((10, 0), {180: 183359, 192: 183359}), "GB200": Known((10, 0), {186: 189471, 192: 189471}),
    "B300": Known((10, 3), {288: 275040}), "5080": Known((12, 0), {16: 16303}), "5090": Known((12, 0), {32: 32607}),
    "PRO6000": Known((12, 0), {96: 97887}),
    "GB10": Known((12, 1), {128: 124610}, "its memory is the machine's: what other programs take is not free for engines"),
    "MI300X": Known(None, {192: 196592}, "AMD: only its memory is known here, and nothing was tried on it"),
}  # fmt: skip
"""By the names that --gpus takes. Sizes are those of nvidia-smi, rocm-smi and, for GB10, /proc/meminfo, in public reports."""
_MAKERS = re.compile(r"NVIDIA|TESLA|QUADRO|GEFORCE|AMD|INSTINCT|RTX|RADEON")
_REST = re.compile(
    r"SXM\d?|PCIE|TI|HBM\d\w?|OAM|GENERATION|BLACKWELL|SERVER|WORKSTATION|EDITION|SUPER|AC|GPU|\d+C|MIG|(?P<slice>\d+G\.(\d+)GB)"
    r"|(?P<size>\d{1,5}(\.\d{1,3})?)(GI?B?)?"
)
SLICE_LESS_GB = 0.75
"""A MIG slice has up to this much less than its name says (3g.40gb: 39.25 GiB)."""
_COUNT_FIRST = re.compile(r"(?P<count>\d{1,4})\s*(?:[x×*]\s*|\s(?=\s*[a-z]))(?P<words>\S.{0,79})", re.ASCII | re.I)
_COUNT_LAST = re.compile(r"(?P<words>\S{0,79}?[a-z].*?)\s*[x×*:]\s*(?P<count>\d{1,4})", re.ASCII | re.I)
_SLICE = re.compile(r"(?:MIG[ -]?)?(\d+G\.(\d+)GB)", re.ASCII | re.I)
_SIZE = re.compile(r"(\d{1,6}(?:\.\d{1,3})?)(?:GI?B?)?", re.ASCII | re.IGNORECASE)
LEAST_OF_SIZE, MOST_OF_SIZE = 0.5, 1.1
"""Another size than a known card has is taken between these parts of it: what a user has seen of its memory, or left of it."""
FLASH_HEADS = (64, 128, 256)
FP8 = (8, 9)
"""The first capability whose tensor cores multiply 8-bit floats."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """The attention kernels that an engine is asked to use, and why. None leaves it to SGLang."""

    backend: str | None
    why: str


def found() -> list[Gpu]:
    """The GPUs that engines see here; a compute capability that nobody tells is that of the card's name."""
    return [
        replace(card, capability=card.capability or (known.capability if (known := _known(card.name)[1]) else None))
        for card in machine.found()
    ]


def notes(found: Sequence[Gpu]) -> list[str]:
    """What a user must know of cards of these names."""
    kinds = {card.name: known for card in found if (known := _known(card.name)[1])}
    return [f"{name}: {known.note}" for name, known in kinds.items() if known.note]


def is_amd(card: Gpu) -> bool:
    """Whether it is one of AMD's, by its name."""
    return re.search(r"\b(AMD|INSTINCT|RADEON|MI\d{3}[AX]?)\b", card.name.upper()) is not None


def sizes() -> dict[int, float]:
    """The least memory in GiB, in ascending order, of the cards that are sold with so many GB."""
    found: dict[int, float] = {}
    for known in KNOWN.values():
        for size, mib in known.mib.items():
            if size < 1.2 * mib / MIB_PER_GB:  # or it is not of the card's own memory
                found[size] = min(found.get(size, size), mib / MIB_PER_GB)
    return dict(sorted(found.items()))


def _known(name: str) -> tuple[str, Known | None, list[str]]:
    """The kind of card that a name means, as NVML, a shop or a user writes it, and the words that are left of it."""
    words = re.findall(r"[A-Z0-9.]+", _MAKERS.sub(" ", name.upper()))
    for count in (2, 1):
        key = "".join(words[:count])
        if key in KNOWN and "LAPTOP" not in words:
            return key, KNOWN[key], words[count:]
    return "", None, words


def named(spec: str) -> list[Gpu]:
    """The GPUs of `--gpus`: COUNTxGB or COUNTxCARD, and CARD for one; a size may follow a card's name. Raises UsageError."""
    count, words = _counted(spec.strip())
    name, known, rest = _known(words)
    size, part = _SIZE.fullmatch(words), _SLICE.fullmatch(words)
    if known:
        memory_gb = _size(spec, known, rest)
    elif part:
        name, memory_gb = f"MIG {part[1].lower()}", float(part[2]) - SLICE_LESS_GB
    elif size and (count or not words.isdecimal()):
        memory_gb = float(size[1])
    else:
        unknown = f"no card named {words} is known" if count else "wants COUNTxGB or COUNTxCARD, as 2x80 or 1xH100"
        raise UsageError(
            f"--gpus {spec}: {unknown}; cards that are known are {', '.join(KNOWN)}; of another one give the memory, as 1x48"
        )
    count = 1 if count is None else count
    if not 1 <= count <= MOST_CARDS or not 1 <= memory_gb <= MOST_GB:
        raise UsageError(f"--gpus {spec}: wants 1 to {MOST_CARDS} cards of 1 to {MOST_GB} GB")
    return [Gpu(name=name or "GPU", memory_gb=memory_gb, capability=known.capability if known else None)] * count


def _counted(spec: str) -> tuple[int | None, str]:
    """How many, and of what: 2x80, 2 x H100, 2 H100, H100x2 and H100:2; None where nobody says how many.

    What stands after a name may be its size, as in A100:40GB.
    """
    if first := _COUNT_FIRST.fullmatch(spec):
        if first["count"] in KNOWN and first["words"].isdecimal():  # 4090x2
            return int(first["words"]), first["count"]
        return int(first["count"]), first["words"]
    last = _COUNT_LAST.fullmatch(spec)
    if last and (known := _known(last["words"])[1]) and int(last["count"]) not in known.mib:
        return int(last["count"]), last["words"]
    return None, spec


def _size(spec: str, known: Known, rest: Sequence[str]) -> float:
    """A card's memory in GiB: a slice's, that of the size which its name says, another size as it is given, or its only one."""
    found = [_REST.fullmatch(word) for word in rest]
    if strange := next((word for word, match in zip(rest, found, strict=True) if not match), None):
        raise UsageError(
            f"--gpus {spec}: {strange} is not understood; a size may follow a card's name, as in 1xH100-80"
        )
    if part := next((match for match in found if match and match["slice"]), None):
        return float(part[2]) - SLICE_LESS_GB
    sizes = [float(match["size"]) for match in found if match and match["size"]]
    if not sizes and len(set(known.mib.values())) > 1:
        raise UsageError(
            f"--gpus {spec}: such cards have {' or '.join(map(str, known.mib))} GB; say which, as in 1xA100-80"
        )
    given = sizes[-1] if sizes else next(iter(known.mib))
    if not LEAST_OF_SIZE * min(known.mib) <= given <= MOST_OF_SIZE * max(known.mib):
        raise UsageError(f"--gpus {spec}: such cards have {' or '.join(map(str, known.mib))} GB, and not {given:g}")
    return known.mib[int(given)] / MIB_PER_GB if given in known.mib else given


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
    return (card.memory_gb or 0.0) if card.free_gb is None else card.free_gb
