"""Owns what a model's files on this machine tell before it is loaded: its shape and size, or why not, and which model it is."""

import hashlib
import json
import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from sgl_specreason.errors import UsageError, one_line
from sgl_specreason.plan.shapes import GIB, Shape
from sgl_specreason.text.tokenizers import near
from sgl_specreason.typed import typed

BUNDLED = Path(__file__).parent.parent / "demo" / "models"
CONFIG, INDEX = "config.json", "*.index.json"
CONFIG_KEYS = {
    "layers": "num_hidden_layers", "hidden": "hidden_size", "intermediate": "intermediate_size",
    "heads": "num_attention_heads", "vocabulary": "vocab_size", "context": "max_position_embeddings",
}  # fmt: skip
STATE_KEYS = {
    "groups": "linear_num_key_heads", "heads": "linear_num_value_heads", "head_dim": "linear_value_head_dim",
    "size": "linear_key_head_dim", "kernel": "linear_conv_kernel_dim",
}  # fmt: skip
"""Of layers of Gated DeltaNet (Qwen3-Next, Qwen3.5), those without a cache."""
LINEAR = "linear_attention"
SSM_BITS = {"float32": 32, "bfloat16": 16, "float16": 16}
IMAGES_GB = 0.1
"""What SGLang keeps for the embeddings of images beside a model that takes some ($SGLANG_VLM_CACHE_SIZE_MB, 0.5.23)."""
WITHOUT_SNAPSHOTS = (
    "FalconMambaForCausalLM", "JetNemotronForCausalLM", "JetVLMForConditionalGeneration", "Lfm2ForCausalLM",
    "Lfm2MoeForCausalLM", "Mamba2ForCausalLM", "MambaForCausalLM", "ZayaForCausalLM",
)  # fmt: skip
"""Architectures of whose states SGLang keeps only those at requests' ends (arg_groups/overrides.py, 0.5.23)."""
HYBRID = "layers that keep a state (a hybrid)"
OTHERS = {
    "a mixture of experts": "expert|^moe_",
    "latent attention (MLA)": "kv_lora_rank",
    HYBRID: "mamba|ssm|^linear_|^conv_|hybrid|attn_type_list|rwkv|lightning|_state_size|lru_",
    "layers that are not alike": "block_configs|_per_layer$",
}
"""What makes a model no dense transformer, by keys of its config.json (those that SGLang 0.5.23 looks for in configs/)."""
DENSE_LAYERS = ("full_attention", "sliding_attention", "chunked_attention")
ALGORITHMS = {"FP8": 8, "NVFP4": 4, "W4A16_AWQ": 4, "W4A8_AWQ": 4}
BITSANDBYTES_GROUP = 64
SCALE_BITS = 20
"""Of a scale of 16 bits and a zero point of 4, for a group of weights."""
TELLING = (CONFIG, "tokenizer*.json", "chat_template.*", INDEX, "*.safetensors", "pytorch_model*.bin", "*.gguf")
SAMPLES, SAMPLE_BYTES = 16, 1024


def shape(model: str) -> Shape | str:
    """The shape of the model in a folder, or of a hub id that is here, by its config.json; or why it cannot be told, in words."""
    path = config_file(model)
    if path is None:
        if os.path.isdir(model):
            return f"the folder {model} has no config.json"
        return f"{model} has no config.json on this machine{near(model)}"
    try:
        config = json.loads(path.read_text("utf-8"))
        found = _shape(config, path.parent) if isinstance(config, dict) else "it holds no table"
        return f"{path}: {found}" if isinstance(found, str) else found
    except Exception as error:  # what a model's files hold may break this in any way
        return f"{path} cannot be reckoned with: {one_line(error)}"


def leaves_snapshots(model: str) -> bool:
    """Whether a model's prefix cache keeps more than the ends of requests, as far as its config.json is here and tells."""
    path = config_file(model)
    try:
        names = json.loads(path.read_text("utf-8")).get("architectures") if path else []
        return not set(names or []) & set(WITHOUT_SNAPSHOTS)
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return True  # `shape` says what is wrong with it


def files_gb(model: str) -> float | None:
    """The size of a model's weights, where they are on this machine."""
    path = config_file(model)
    try:
        return _files_gb(path.parent) if path else None
    except (OSError, ValueError, AttributeError):
        return None


def identity(model: str) -> str:
    """What tells this model from others of its name: its path and a hash of its files, or its hub id and revision.

    Of files only samples are read (TELLING): two checkpoints of one training have the same configuration, names and sizes.
    """
    path = config_file(model)
    if path is None:
        return model
    if not os.path.isdir(model):
        return f"{model}@{path.parent.name[:12]}"
    name = f"bundled-{Path(model).name}" if model.startswith(str(BUNDLED)) else model
    try:
        return f"{name}@{_hash(path.parent, path.stat().st_mtime_ns)}"
    except OSError as error:
        raise UsageError(f"model {model}: {error.filename or path}: cannot be read: {error.strerror}") from None


@lru_cache
def _hash(folder: Path, _changed: int) -> str:
    """Twelve hex digits of what is in a folder; asked for once, since each trajectory's settings have it."""
    found = hashlib.sha256()
    for path in sorted({path for pattern in TELLING for path in folder.glob(pattern) if path.is_file()}):
        size = path.stat().st_size
        found.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(number * max(0, size - SAMPLE_BYTES) // (SAMPLES - 1))
                found.update(file.read(SAMPLE_BYTES))
    return found.hexdigest()[:12]


def config_file(model: str) -> Path | None:
    """Where the config.json of a folder or a hub id is on this machine."""
    here = Path(model) / CONFIG
    if os.path.isfile(here):
        return here
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(model, CONFIG)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _shape(whole: dict[str, Any], folder: Path) -> Shape | str:
    """The shape of a decoder, dense or with layers of Gated DeltaNet; of others why this arithmetic cannot count them."""
    text = whole.get("text_config")
    config = text if isinstance(text, dict) else whole
    state = _state(config)
    if reason := _no_dense(config, state):
        return f"{reason}, which this plan does not reckon with"
    size = _files_gb(folder)
    if text and not (state and size):
        return "it is more than a text model (text_config)" + (", and its weights' sizes are not here" if state else "")
    config = {**whole, **config}
    quantized, bits, group = _quantized(config, folder)
    if not bits:
        return f"it comes quantised in a way that is not known here ({quantized})"
    heads = config.get("num_attention_heads")
    given = {name: config.get(key) for name, key in CONFIG_KEYS.items()}
    given |= {"kv_heads": config.get("num_key_value_heads") or heads}
    given |= {"head_dim": config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]}
    given |= {"tied": config.get("tie_word_embeddings") is True, "bits": bits, "quantized": quantized, "group": group}
    given |= {"state": state, "gated": state is not None and config.get("attn_output_gate") is not False}
    found = typed(given, Shape)
    if size and "float32" in (config.get("dtype"), config.get("torch_dtype")):
        size /= 2  # SGLang loads such weights at 16 bits
    # of a model of which only some files are here, or that is served with random weights, the size says nothing
    whole_gb = size + IMAGES_GB if size and text else size
    return typed(given | {"checkpoint_gb": whole_gb}, Shape) if size and size > found.weights_gb() / 2 else found


def _state(config: dict[str, Any]) -> dict[str, Any] | None:
    """What its layers of Gated DeltaNet keep, as SGLang counts them; None where it has none."""
    if not all(config.get(key) for key in STATE_KEYS.values()):
        return None
    kinds, every = config.get("layer_types"), config.get("full_attention_interval")
    layers = config["num_hidden_layers"]
    linear = kinds.count(LINEAR) if isinstance(kinds, list) else layers - layers // every
    given = {name: config[key] for name, key in STATE_KEYS.items()}
    return given | {"layers": linear, "bits": SSM_BITS[config.get("mamba_ssm_dtype") or "float32"]}


def _no_dense(config: dict[str, Any], state: dict[str, Any] | None) -> str | None:
    kinds, known = config.get("layer_types"), (*DENSE_LAYERS, *([LINEAR] if state else []))
    if isinstance(kinds, list) and (other := next((kind for kind in kinds if kind not in known), None)):
        return f"layers of {other} (a hybrid)"
    for words, pattern in OTHERS.items():
        if state and words == HYBRID:
            continue
        if key := next((key for key, value in config.items() if value and re.search(pattern, key)), None):
            return f"{words}: {key}"
    return None


def _quantized(config: dict[str, Any], folder: Path) -> tuple[str, float, int]:
    """How a checkpoint is quantised, bits of a weight with its scales (0: not known), and how many weights share one."""
    quant = config.get("quantization_config") or config.get("compression_config")
    if not quant and (beside := folder / "hf_quant_config.json").is_file():  # modelopt's
        quant = {"quant_method": "modelopt"} | json.loads(beside.read_text("utf-8"))["quantization"]
    if not quant:
        return "", 16, 1
    quant = {**next(iter((quant.get("config_groups") or {"": {}}).values())).get("weights", {}), **quant}
    method = str(quant.get("quant_method", "modelopt"))
    block = quant.get("weight_block_size") or [quant.get("group_size") or 1]
    group = max(1, block[-1])
    bits = quant.get("bits") or quant.get("num_bits") or ALGORITHMS.get(str(quant.get("quant_algo")))
    if method == "bitsandbytes":
        bits = 4 if quant.get("load_in_4bit") else 8
        return method, bits + SCALE_BITS / BITSANDBYTES_GROUP, 1
    bits = bits or (8 if method in ("fp8", "fbgemm_fp8") else 0)
    return method, bits and bits + (SCALE_BITS / group if group > 1 else 0), group


def _files_gb(folder: Path) -> float | None:
    """The size of the weights in a folder: what their index says, else that of the files."""
    for index in sorted(folder.glob(INDEX))[:1]:  # that of safetensors
        size = json.loads(index.read_text("utf-8")).get("metadata", {}).get("total_size")
        if isinstance(size, int) and size > 0:
            return size / GIB
    files = [*folder.glob("*.safetensors")] or [*folder.glob("pytorch_model*.bin")]
    return sum(path.stat().st_size for path in files) / GIB or None
