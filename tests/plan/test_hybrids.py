"""What is planned for hybrids (Gated DeltaNet): states beside the cache, counted as SGLang and transformers count them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from sgl_specreason.engines.decode import Decode
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import gpus
from sgl_specreason.plan.catalog import Model, Pair, load_pair
from sgl_specreason.plan.checkpoints import shape
from sgl_specreason.plan.demands import Demand
from sgl_specreason.plan.fitting import shape_of
from sgl_specreason.plan.gpus import Gpu
from sgl_specreason.plan.limits import places
from sgl_specreason.plan.memory import DRIVER_GB, STATES, TRAJECTORY_TOKENS, layouts
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.placement import place
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.plan.shapes import GIB, Shape, State

TEXT = {
    "num_hidden_layers": 32, "hidden_size": 2560, "intermediate_size": 9216, "num_attention_heads": 16,
    "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 248320, "max_position_embeddings": 262144,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"], "full_attention_interval": 4,
    "linear_num_key_heads": 16, "linear_num_value_heads": 32, "linear_key_head_dim": 128, "linear_value_head_dim": 128,
    "linear_conv_kernel_dim": 4, "mamba_ssm_dtype": "float32", "tie_word_embeddings": True,
}  # fmt: skip
"""A model of the kind of Qwen3.5."""
TEXT["layer_types"] = TEXT["layer_types"] * 8  # type: ignore[operator]
WEIGHTS_GB = 9
INDEX = {"model.safetensors.index.json": {"metadata": {"total_size": WEIGHTS_GB * GIB}}}
STATE = State(layers=24, groups=16, heads=32, head_dim=128, size=128, kernel=4)
H100 = Gpu(name="NVIDIA H100", memory_gb=79.6, capability=(9, 0))


def folder(path: Path, config: dict[str, Any], files: dict[str, Any] | None = None) -> str:
    path.mkdir(parents=True)
    for name, content in {"config.json": config, **(files or {})}.items():
        (path / name).write_text(json.dumps(content))
    return str(path)


def hybrid(path: Path, **given: Any) -> Shape:
    found = shape(folder(path, TEXT | given))
    assert isinstance(found, Shape), found
    return found


def test_only_layers_with_attention_have_a_cache(tmp_path: Path) -> None:
    """Also where config.json names no layers, but how often one has attention."""
    found = hybrid(tmp_path / "named")
    assert found.state == STATE
    assert (found.layers, found.cached_layers) == (32, 8)
    assert found.kv_bytes() == 2 * 8 * 4 * 256 * 2
    assert hybrid(tmp_path / "interval", layer_types=None) == found
    halved = hybrid(tmp_path / "halved", mamba_ssm_dtype="bfloat16").state
    assert halved
    assert STATE.bytes() / 2 < halved.bytes() < STATE.bytes()


def test_of_a_model_that_also_sees_the_files_tell_the_size(tmp_path: Path) -> None:
    """Its encoder of images is not reckoned with, and what SGLang keeps for these comes on top."""
    whole = {"architectures": ["Qwen3_5ForConditionalGeneration"], "text_config": TEXT, "vision_config": {"depth": 24}}
    found = shape(folder(tmp_path / "here", whole, INDEX))
    assert isinstance(found, Shape)
    assert found.state == STATE
    assert WEIGHTS_GB < found.weights_gb() < WEIGHTS_GB + 0.2
    assert "sizes are not here" in str(shape(folder(tmp_path / "not-here", whole)))


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_a_state_has_the_bytes_that_sglang_counts(tp: int) -> None:
    from sglang.srt.configs.mamba_utils import Mamba2CacheParams, Mamba2StateShape

    shaped = Mamba2StateShape.create(
        tp_world_size=tp, intermediate_size=32 * 128, n_groups=16, num_heads=32, head_dim=128, state_size=128, conv_kernel=4
    )  # fmt: skip
    assert STATE.bytes(tp) == Mamba2CacheParams(shape=shaped, layers=list(range(24))).mamba_cache_per_req


def test_its_parameters_are_those_that_transformers_makes(tmp_path: Path) -> None:
    import torch
    from transformers import Qwen3_5ForCausalLM, Qwen3_5TextConfig

    with torch.device("meta"):
        made = Qwen3_5ForCausalLM(
            Qwen3_5TextConfig(**{key: value for key, value in TEXT.items() if "mamba" not in key})
        )
    assert hybrid(tmp_path / "model").parameters == pytest.approx(made.num_parameters(), rel=1e-3)


def test_every_trajectory_in_the_cache_has_the_states_to_run(tmp_path: Path) -> None:
    """With SGLang's one more, and what the tokens that are verified together keep where base speculates."""
    found = hybrid(tmp_path / "model")
    (layout, *_) = layouts([79.6], Demand(shape=found), Demand(shape=found))
    assert layout.base.states == layout.small.states == STATES * (layout.tokens // TRAJECTORY_TOKENS)
    assert layout.base.state_gb == pytest.approx((layout.base.states + 1) * STATE.bytes() / GIB)
    assert layout.base.total_gb + layout.small.total_gb <= 79.6 - DRIVER_GB
    (speculating, *_) = layouts([79.6], Demand(shape=found, guesses=5), Demand(shape=found))
    assert speculating.tokens < layout.tokens
    running = speculating.base.states // STATES
    assert speculating.base.state_gb == pytest.approx(
        (speculating.base.states + 1 + 6 * (running + 1)) * STATE.bytes() / GIB
    )


def test_heads_that_keep_a_state_are_split_evenly(tmp_path: Path) -> None:
    """SGLang shares out keys and values alike."""
    odd = hybrid(tmp_path / "model", linear_num_key_heads=2, linear_num_value_heads=6)
    assert Demand(shape=odd).splits(8) == [1, 2]
    assert "2 and 6 heads with a state" in Demand(shape=odd).hindrance(4)


def pair_of(tmp_path: Path, base: dict[str, Any] | None = None, small: dict[str, Any] | None = None) -> tuple[str, str]:
    """Folders of a base and a small model."""
    return folder(tmp_path / "base", TEXT | (base or {})), folder(tmp_path / "small", TEXT | (small or {}))


def test_sglang_is_told_to_leave_snapshots_and_how_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan says so, and what is said of trajectories side by side follows their number."""
    monkeypatch.setattr(gpus, "found", lambda: [H100])
    base, small = pair_of(tmp_path)
    plan = resolve(Options(bench="demo", policy={}, base_model=base, small_model=small))
    words = " ".join(plan.engine("base").args)
    assert plan.placement
    assert plan.placement.layout
    states = plan.placement.layout.base.states
    assert f"--mamba-radix-cache-strategy extra_buffer --max-mamba-cache-size {states}" in words
    assert "states GB" in plan.placement.text()
    assert places(plan, {"base": 10**9, "small": 10**9}) == {"base": states // STATES, "small": states // STATES}
    assert "states" not in place(load_pair("qwen3-8b+qwen3-0.6b"), [H100]).text()


JET = {"architectures": ["JetNemotronForCausalLM"]}


def refused(options: Options) -> str:
    with pytest.raises(UsageError) as refusal:
        resolve(options)
    return str(refusal.value)


def test_a_base_that_leaves_no_snapshots_is_no_judge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its architecture, or because the pair's file says so. Alone it can be served."""
    monkeypatch.setattr(gpus, "found", lambda: [H100])
    base, small = pair_of(tmp_path, base=JET)
    options = Options(bench="demo", policy={}, base_model=base, small_model=small)
    assert "compute its whole context again" in refused(options)
    assert resolve(replace(options, methods=("base", "small"))).specs
    swapped = replace(options, base_model=small, small_model=base)
    assert resolve(swapped).specs
    own = tmp_path / "own.toml"
    own.write_text(
        f'title = "own"\n[base]\nmodel = "{small}"\n[small]\nmodel = "{small}"\n'
        '[args]\nbase = ["--mamba-radix-cache-strategy", "no_buffer", "--disable-overlap-schedule"]\n'
    )
    assert "no_buffer" in refused(Options(bench="demo", policy={}, pair=str(own)))


def test_without_a_gpu_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "found", list)
    little = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 512}
    base, small = pair_of(tmp_path, base=little, small=little)
    assert "a hybrid (layers that keep a state), whose kernels need a GPU" in refused(
        Options(bench="demo", policy={}, base_model=base, small_model=small)
    )


def test_it_does_not_guess_for_another_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SGLang gives what guesses the states of base. N-grams can guess for a hybrid."""
    monkeypatch.setattr(gpus, "found", lambda: [H100])
    base, small = pair_of(tmp_path)
    options = Options(bench="demo", policy={}, base_model=base, small_model=small, methods=("base+decode",))
    assert "is a hybrid" in refused(options)
    assert "--decode ngram" in refused(options)
    assert resolve(replace(options, decode="ngram")).decode == Decode(algorithm="ngram")


def test_a_pairs_file_may_say_it(tmp_path: Path) -> None:
    """For a model that is not here."""
    found = structs.asdict(hybrid(tmp_path / "model"))
    own = Pair(name="own", title="", base=Model(model="o/b", shape=Shape(**found)), small=Model(model="o/s"))
    read = shape_of(own.base)
    assert read
    assert read.cached_layers == 8
    with pytest.raises(UsageError, match="there are 32 layers"):
        Shape(**found | {"state": structs.replace(STATE, layers=33)})
