"""The arithmetic of two engines on cards: pure, against published sizes and against itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sgl_specreason.plan.catalog import load_pair, names
from sgl_specreason.plan.demands import PROCESS_GB, Demand
from sgl_specreason.plan.memory import DRIVER_GB, TRAJECTORY_TOKENS, Layout, layouts
from sgl_specreason.plan.shapes import GIB

PAIRS = [load_pair(name) for name in names("pairs")]
SHAPES = {model.model: model.shape for pair in PAIRS for model in pair.models.values() if model.shape}
QWQ, SMALL = SHAPES["Qwen/QwQ-32B"], SHAPES["deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"]


def demand(name: str, **given: object) -> Demand:
    return Demand(shape=SHAPES[name], **given)  # type: ignore[arg-type]


BASE, LITTLE = demand("Qwen/QwQ-32B"), demand("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B")


@pytest.mark.parametrize(
    ("model", "billions", "kv_kib"),
    [
        ("Qwen/QwQ-32B", 32.8, 256),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", 14.8, 192),
        ("deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B", 1.78, 28),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", 70.6, 320),
        ("Qwen/Qwen3-32B", 32.8, 256),
        ("Qwen/Qwen3-8B", 8.2, 144),
        ("Qwen/Qwen3-4B", 4.02, 144),
        ("Qwen/Qwen3-1.7B", 1.72, 112),
        ("Qwen/Qwen3-0.6B", 0.6, 112),
    ],
)
def test_parameters_and_cache_follow_from_the_shape(model: str, billions: float, kv_kib: int) -> None:
    """The parameters are the published ones, the cache that of the published layers and heads."""
    assert SHAPES[model].parameters / 1e9 == pytest.approx(billions, rel=0.01)
    assert SHAPES[model].kv_bytes() == kv_kib * 1024


def test_weights_at_16_and_8_bits() -> None:
    assert QWQ.weights_gb() == pytest.approx(61.0, abs=0.1)
    embeddings = 2 * 152064 * 5120
    assert QWQ.weights_gb("fp8") * GIB == pytest.approx(QWQ.parameters - embeddings + 2 * embeddings)
    assert QWQ.weights_gb("fp8-checkpoint") == QWQ.weights_gb("fp8")


def test_a_card_has_a_whole_head_at_least() -> None:
    assert SMALL.kv_bytes(2) == SMALL.kv_bytes() / 2
    assert SMALL.kv_bytes(4) == SMALL.kv_bytes(2)


def test_what_is_no_dense_transformer_can_say_its_parameters() -> None:
    assert replace(QWQ, parameters_b=30.5).weights_gb() == pytest.approx(30.5e9 * 2 / GIB)


def best(*cards: float, base: Demand = BASE, small: Demand = LITTLE) -> Layout:
    return layouts(cards, base, small)[0]


def test_32b_at_16_bits_leaves_little_of_80_gb() -> None:
    assert TRAJECTORY_TOKENS <= best(80).tokens < 3 * TRAJECTORY_TOKENS
    assert layouts([72], BASE, LITTLE) == []
    assert best(80, base=demand("Qwen/QwQ-32B", quantization="fp8")).tokens > 4 * best(80).tokens


def test_8_bits_are_made_of_16_on_the_card() -> None:
    """A checkpoint that is quantised when it has been loaded needs room for all of it first."""
    assert layouts([48], demand("Qwen/QwQ-32B", quantization="fp8"), LITTLE) == []
    assert layouts([48], demand("Qwen/QwQ-32B", quantization="fp8-checkpoint"), LITTLE)


def test_of_two_cards_the_way_with_more_room_is_taken() -> None:
    """A large base over both; a base with room to spare on a card of its own, since small's cache is as large as base's."""
    large = best(80, 80)
    assert (large.base.cards, large.small.cards, large.shared) == ((0, 1), (0,), True)
    modest = best(80, 80, base=demand("Qwen/Qwen3-8B"), small=demand("Qwen/Qwen3-0.6B"))
    assert (modest.base.cards, modest.small.cards, modest.shared) == ((1,), (0,), False)


def test_heads_are_split_evenly() -> None:
    """QwQ's 40 heads go over 1, 2, 4 or 8 cards, not over 3; 64 of 16 heads are as good as none."""
    assert BASE.splits(3) == [1, 2]
    assert BASE.splits(8) == [1, 2, 4, 8]
    assert demand("Qwen/QwQ-32B", tp=2).splits(8) == [2]
    assert demand("Qwen/QwQ-32B", tp=3).splits(8) == []


def test_a_cap_on_tokens_is_kept() -> None:
    assert layouts([141], BASE, LITTLE, 65536)[0].tokens == 65536


sizes = st.floats(8, 300)


@settings(max_examples=300, deadline=None)
@given(
    cards=st.lists(sizes, min_size=1, max_size=8),
    base=st.sampled_from(sorted(SHAPES)),
    small=st.sampled_from(sorted(SHAPES)),
    quantization=st.sampled_from(["none", "fp8", "fp8-checkpoint"]),
)
def test_no_plan_takes_more_than_there_is(cards: list[float], base: str, small: str, quantization: str) -> None:
    """On each card the two fit with what is left free, at the fractions that SGLang is given of what is free then."""
    for layout in layouts(cards, demand(base, quantization=quantization), demand(small)):
        assert layout.tokens >= TRAJECTORY_TOKENS
        for card in {*layout.small.cards, *layout.base.cards}:
            assert layout.left_gb(card) >= 0
        for share in (layout.small, layout.base):
            beside = layout.small.total_gb if share.role == "base" and layout.shared else 0
            free = min(cards[card] - DRIVER_GB - PROCESS_GB - (beside if card == 0 else 0) for card in share.cards)
            assert 0 < share.fraction < 1
            assert share.fraction * free >= share.weights_gb + share.kv_gb - 0.001 * free


@given(cards=st.lists(sizes, min_size=1, max_size=4), more=st.floats(0, 100))
@settings(max_examples=100, deadline=None)
def test_larger_cards_never_leave_less_room(cards: list[float], more: float) -> None:
    """Where the engines are run alike: small cards have smaller graphs and chunks."""
    small = [card for card in cards if card >= 40]
    if not small:
        return
    before = layouts(small, BASE, LITTLE)
    after = layouts([card + more for card in small], BASE, LITTLE)
    assert max((layout.tokens for layout in after), default=0) >= max((layout.tokens for layout in before), default=0)
