"""What a model's files tell before it is loaded: shape, size, why not, and which of two models of one name it is."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from msgspec import structs

from sgl_specreason.plan.catalog import BUNDLED, Model, load_pair
from sgl_specreason.plan.checkpoints import files_gb, identity, shape
from sgl_specreason.plan.fitting import shape_of
from sgl_specreason.plan.shapes import GIB, Shape

DENSE = {
    "num_hidden_layers": 36, "hidden_size": 4096, "intermediate_size": 12288, "num_attention_heads": 32,
    "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936, "max_position_embeddings": 40960,
}  # fmt: skip
QWEN3_8B = load_pair("qwen3-8b+qwen3-0.6b").base.shape


def folder(path: Path, files: dict[str, Any] | None = None, **config: Any) -> str:
    path.mkdir(parents=True)
    for name, content in {"config.json": config, **(files or {})}.items():
        (path / name).write_text(json.dumps(content))
    return str(path)


def test_a_dense_models_shape(tmp_path: Path) -> None:
    """Also with `head_dim: null`, which means: hidden by heads."""
    assert shape(folder(tmp_path / "dense", **DENSE)) == QWEN3_8B
    assert shape(folder(tmp_path / "null", **(DENSE | {"head_dim": None, "quantization_config": None}))) == QWEN3_8B
    assert isinstance(shape_of(load_pair("demo").base), Shape)
    assert shape_of(Model(model="some-one/nothing-that-is-here")) is None


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_experts": 8}, "a mixture of experts: num_experts"),
        # of nvidia/Nemotron-H-8B-Base-8K's config.json
        ({"hybrid_override_pattern": "M-M-M*", "mamba_num_heads": 128}, "keep a state"),
        # of Qwen3.5's and Qwen3-Next's
        ({"layer_types": ["linear_attention", "full_attention"]}, "layers of linear_attention"),
        ({"text_config": DENSE | {"layer_types": ["linear_attention"]}}, "layers of linear_attention"),
        ({"linear_num_key_heads": 16}, "keep a state"),
        # of DeepSeek-V2-Lite's and MiniCPM3's
        ({"kv_lora_rank": 512, "q_lora_rank": None}, "latent attention"),
        ({"layer_types": ["conv", "full_attention"]}, "layers of conv"),
        ({"text_config": DENSE}, "more than a text model"),
        ({"quantization_config": {"quant_method": "aqlm"}}, "not known here (aqlm)"),
        ({"quantization_config": 3}, "cannot be reckoned with"),
        ({"hidden_size": "x"}, "config.json cannot be reckoned with"),
        ({"head_dim": 0, "hidden_size": 1}, "head_dim = 0"),
        ({"num_attention_heads": 0, "head_dim": None}, "cannot be reckoned with"),
        ({"vocab_size": 10**400}, "vocabulary"),
        ({"num_hidden_layers": None}, "layers = None"),
    ],
)
def test_what_does_not_pass_for_a_dense_model(tmp_path: Path, config: dict[str, Any], words: str) -> None:
    found = shape(folder(tmp_path / "other", **(DENSE | config)))
    assert isinstance(found, str)
    assert words in found
    assert "\n" not in found


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "null", "\ud800", "[" * 100_000])
def test_a_configuration_that_cannot_be_read_is_a_reason(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, errors="surrogatepass")
    assert str(tmp_path / "config.json") in str(shape(str(tmp_path)))


@pytest.mark.parametrize(
    ("quantization", "bits"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128}, 4.16),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8.16),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, 8),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.31),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True, "load_in_4bit": False}, 8.31),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}}, 8),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, 8),
        ({"quant_algo": "NVFP4", "group_size": 16}, 5.25),
    ],
)
def test_a_quantised_checkpoint_is_counted_at_its_own_size(
    tmp_path: Path, quantization: dict[str, Any], bits: float
) -> None:
    """Its layers; embeddings and output stay at 16 bits."""
    found = shape(folder(tmp_path / "quantised", quantization_config=quantization, **DENSE))
    assert isinstance(found, Shape)
    assert found.bits == pytest.approx(bits, abs=0.01)
    assert QWEN3_8B is not None
    layers = (QWEN3_8B.parameters - QWEN3_8B.embeddings) * found.bits / 8
    assert found.weights_gb() == pytest.approx((layers + 2 * QWEN3_8B.embeddings) / GIB)


def test_modelopt_says_it_in_a_file_of_its_own(tmp_path: Path) -> None:
    beside = {"hf_quant_config.json": {"producer": {}, "quantization": {"quant_algo": "FP8"}}}
    found = shape(folder(tmp_path / "modelopt", beside, **DENSE))
    assert isinstance(found, Shape)
    assert (found.quantized, found.bits) == ("modelopt", 8)


def test_where_the_weights_are_here_they_are_what_is_counted(tmp_path: Path) -> None:
    index = {"model.safetensors.index.json": {"metadata": {"total_size": 6 * GIB}}}
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    whole = shape(folder(tmp_path / "whole", index, quantization_config=awq, **DENSE))
    assert isinstance(whole, Shape)
    assert whole.weights_gb() == 6
    part = shape(folder(tmp_path / "part", {"model-00001-of-00009.safetensors": "x"}, **DENSE))
    assert part == QWEN3_8B  # a folder with some of its files
    double = {"model.safetensors.index.json": {"metadata": {"total_size": 32 * GIB}}}
    at_16_bits = shape(folder(tmp_path / "float32", double, torch_dtype="float32", **DENSE))
    assert isinstance(at_16_bits, Shape)
    assert at_16_bits.weights_gb() == 16
    broken = folder(tmp_path / "broken", {"model.safetensors.index.json": []}, **DENSE)
    assert files_gb(broken) is None


def checkpoint(path: Path, weights: bytes) -> str:
    """As two trainings of one model leave them: all but the numbers in the weights are the same."""
    found = folder(path, {"tokenizer.json": {}}, **DENSE)
    (path / "model.safetensors").write_bytes(b"header" * 100 + weights)
    return found


def test_two_checkpoints_of_one_name_are_told_apart(tmp_path: Path) -> None:
    first = checkpoint(tmp_path / "runA" / "base" / "final", b"1" * 100_000)
    other = checkpoint(tmp_path / "runB" / "base" / "final", b"2" * 100_000)
    assert identity(first).startswith(f"{first}@")
    assert identity(first).rpartition("@")[2] != identity(other).rpartition("@")[2]
    copy = tmp_path / "copy"
    shutil.copytree(first, copy)
    assert identity(str(copy)).rpartition("@")[2] == identity(first).rpartition("@")[2]
    (copy / "training_state.json").write_text("{}")  # nothing that a model is served with
    assert identity(str(copy)).rpartition("@")[2] == identity(first).rpartition("@")[2]


def test_a_bundled_model_is_the_same_in_every_checkout() -> None:
    found = identity(str(BUNDLED / "base"))
    assert found.startswith("bundled-base@")
    assert str(BUNDLED.parent) not in found


def test_a_hub_id_has_its_revision_where_that_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity("some/model") == "some/model"
    snapshot = tmp_path / "snapshots" / ("0123456789ab" + "c" * 28)
    folder(snapshot, **DENSE)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: str(snapshot / "config.json"))
    assert identity("some/model") == "some/model@0123456789ab"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("config.json", {"model_type": "qwen3", "head_dim": None}),
        ("config.json", {"max_position_embeddings": "lots"}),
        ("config.json", {"quantization_config": 3}),
        ("tokenizer.json", {"model": {"type": "Unheard-of"}}),
        ("tokenizer.json", {"model": None}),
    ],
)
def test_whatever_the_library_refuses_is_a_line_that_names_the_file(
    tmp_path: Path, name: str, change: dict[str, Any]
) -> None:
    """Also where it refuses in ways of its own."""
    model = tmp_path / "odd"
    shutil.copytree(BUNDLED / "small", model)
    whole = json.loads((model / name).read_text())
    (model / name).write_text(json.dumps(whole | change))
    result = invoke("eval", "--bench", "demo", "--base-model", model, "--small-model", BUNDLED / "small", "--dry-run")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert str(model) in result.stderr
    assert name in result.stderr


def test_a_shape_may_say_how_a_checkpoint_is_quantised() -> None:
    assert QWEN3_8B is not None
    awq = structs.replace(QWEN3_8B, bits=4.25, quantized="awq", group=128)
    assert awq.weights_gb() < QWEN3_8B.weights_gb() / 2
