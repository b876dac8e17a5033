"""The pairs that ship, which one is chosen for which cards, where its engines sit and what SGLang is told."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from command_line import invoke
from msgspec import structs

from sgl_specreason.engines import cards as machine
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import gpus
from sgl_specreason.plan.catalog import BUNDLED, Model, Pair, load_pair, names
from sgl_specreason.plan.fitting import fitting, needs_gpu
from sgl_specreason.plan.gpus import Gpu, attention, named
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.placement import FRACTIONS, check_cards, place
from sgl_specreason.plan.plan import Plan
from sgl_specreason.plan.resolve import resolve
from sgl_specreason.plan.shapes import Shape

WANTED = {
    ("Qwen/QwQ-32B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    ("Qwen/QwQ-32B", "Zyphra/ZR1-1.5B"),
    ("Skywork/Skywork-OR1-32B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    ("Skywork/Skywork-OR1-32B", "Zyphra/ZR1-1.5B"),
    ("deepseek-ai/DeepSeek-R1-Distill-Llama-70B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    ("Qwen/Qwen3-32B", "Qwen/Qwen3-1.7B"),
    ("Qwen/Qwen3-8B", "Qwen/Qwen3-0.6B"),
    ("Qwen/Qwen3-4B", "Qwen/Qwen3-0.6B"),
    ("deepseek-ai/DeepSeek-R1-Distill-Qwen-14B", "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"),
    ("Qwen/Qwen2.5-Math-7B-Instruct", "Qwen/Qwen2.5-Math-1.5B-Instruct"),
    ("bundled:base", "bundled:small"),
}
PAIRS = {name: load_pair(name) for name in names("pairs")}
BIG = {name: pair for name, pair in PAIRS.items() if name != "demo"}


def test_the_pairs_that_ship() -> None:
    assert {(pair.base.model, pair.small.model) for pair in PAIRS.values()} == WANTED


@pytest.mark.parametrize("pair", BIG.values(), ids=BIG)
def test_every_model_says_what_it_is_and_where_that_was_read(pair: Pair) -> None:
    for model in pair.models.values():
        assert model.shape is not None
        assert model.template is not None
        assert model.source.startswith(("config.json", "not read"))
        assert "\n" not in model.source
    assert needs_gpu(pair)


def test_the_same_model_is_the_same_in_every_file() -> None:
    """Each file holds its models' facts whole; none may drift from another's."""
    found: dict[str, Model] = {}
    for pair in PAIRS.values():
        for model in pair.models.values():
            first = found.setdefault(model.model, model)
            assert (first.shape, first.template, first.sampling, first.source) == (
                model.shape,
                model.template,
                model.sampling,
                model.source,
            )


def written(tmp_path: Path, text: str) -> str:
    file = tmp_path / "mine.toml"
    file.write_text(f"title = 'mine'\n{text}")
    return str(file)


SHAPE = "layers = 2\nhidden = 8\nintermediate = 8\nheads = 2\nkv_heads = 1\nhead_dim = 4\nvocabulary = 9\ncontext = 99"


def test_a_pair_may_be_two_names(tmp_path: Path) -> None:
    pair = load_pair(written(tmp_path, "base = 'some/model'\nsmall = 'bundled:small'"))
    assert (pair.base.model, pair.base.shape, pair.think_tags) == ("some/model", None, ("<think>", "</think>"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base = 'x'", "small is missing"),
        ("base = 3\nsmall = 'x'", "base = 3"),
        ("small = 'x'\n[base]\nquantization = 'fp8'", "base.model is missing"),
        ("small = 'x'\n[base]\nmodel = 'x'\nquantisation = 'fp8'", "base.quantisation.*did you mean quantization"),
        ("small = 'x'\n[base]\nmodel = 'x'\nquantization = 'int3'", "base.quantization = 'int3'"),
        ("small = 'x'\n[base]\nmodel = 'x'\ntemplate = 'alpaca'", "base.template = 'alpaca'"),
        ("small = 'x'\n[base]\nmodel = 'x'\ntp_size = 0", "base.tp_size = 0"),
        ("small = 'x'\n[base]\nmodel = 'x'\nsampling = { temp = 1 }", "base.sampling.temp"),
        (
            f"small = 'x'\n[base]\nmodel = 'x'\n[base.shape]\n{SHAPE}\nlayer = 1",
            "base.shape.layer.*did you mean layers",
        ),
        (f"small = 'x'\n[base]\nmodel = 'x'\n[base.shape]\n{SHAPE.replace('= 8', '= 0')}", "base.shape.hidden = 0"),
        (f"small = 'x'\n[base]\nmodel = 'x'\n[base.shape]\n{SHAPE[11:]}", "base.shape.layers is missing"),
        ("base = 'x'\nsmall = 'x'\nthink_tags = ['<think>']", "think_tags"),
        ("base = 'x'\nsmall = 'x'\nthink_tags = ['a', 'a']", "an opening and a closing tag"),
        ("base = 'x'\nsmall = 'x'\npolicy = { thresold = 3 }", "did you mean threshold"),
        ("base = 'x'\nsmall = 'bundled:tiny'", "no model 'bundled:tiny'"),
    ],
)
def test_a_wrong_pair_file_is_named_with_its_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        load_pair(written(tmp_path, text))


def test_a_pairs_policy_comes_before_the_presets_and_after_the_benches(tmp_path: Path) -> None:
    file = written(
        tmp_path, "base = 'bundled:base'\nsmall = 'bundled:small'\npolicy = { threshold = 8, step_tokens = 99 }"
    )

    def policy(**given: Any) -> Any:
        return resolve(Options(bench="demo", pair=file, methods=("specreason",), policy=given)).variants[0].policy

    assert (policy().threshold, policy().step_tokens) == (8, 64)  # the demo bench has its own step cap
    assert policy(threshold=5.0).threshold == 5


def cards(count: int, memory_gb: float, capability: tuple[int, int] | None = None) -> list[Gpu]:
    return [Gpu(name="card", memory_gb=memory_gb, capability=capability)] * count


def chosen(monkeypatch: pytest.MonkeyPatch, data: Path, found: list[Gpu], **given: Any) -> Plan:
    monkeypatch.setattr(gpus, "found", lambda: found)
    return resolve(Options(bench="math500", data=data / "math500.jsonl", policy={}, **given))


@pytest.mark.parametrize(
    ("found", "pair"),
    [
        (named("1x4080"), "qwen3-4b+qwen3-0.6b"),
        (named("1xL4"), "qwen3-4b+qwen3-0.6b"),  # 22.5 GiB, as an A10 reports
        (cards(1, 24), "qwen3-4b+qwen3-0.6b"),
        (cards(1, 32), "qwen3-8b+qwen3-0.6b"),
        (cards(1, 80), "r1-14b+r1-1.5b"),
        (cards(1, 80, (8, 0)), "r1-14b+r1-1.5b"),  # an A100 has no 8-bit floats
        (cards(1, 80, (9, 0)), "qwq-32b-fp8+r1-1.5b"),
        (cards(1, 141, (9, 0)), "qwq-32b+r1-1.5b"),
        (cards(2, 48, (8, 6)), "qwq-32b+r1-1.5b"),  # the paper's machine
        (cards(4, 80, (8, 0)), "r1-70b+r1-1.5b"),  # the paper's other one
    ],
)
def test_auto_takes_the_largest_base_with_room_and_says_so(
    found: list[Gpu], pair: str, monkeypatch: pytest.MonkeyPatch, shared_data: Path
) -> None:
    for asked in (None, "auto"):
        plan = chosen(monkeypatch, shared_data, found, pair=asked)
        assert plan.pair == pair
        assert plan.why.startswith(f"pair auto: {pair} on {len(found)} x {found[0].name}")
        assert "\n" not in plan.why


def test_auto_takes_the_demo_pair_for_its_own_bench(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpus, "found", lambda: cards(2, 80, (9, 0)))
    plan = resolve(Options(bench="demo", pair="auto", policy={}))
    assert (plan.pair, [spec.args.count("--tp-size") for spec in plan.specs]) == ("demo", [0, 0])
    assert plan.placement is not None
    assert plan.placement.attention.backend == "triton"  # its heads have 16 dimensions


CHUNK = {"SGLANG_LOGPROB_CHUNK_SIZE": "512"}
"""SGLang's own 2,048 rows of logits are more than a plan leaves free."""


def argument(args: tuple[str, ...], name: str) -> str | None:
    at = [number for number, word in enumerate(args) if word == name]
    return args[at[-1] + 1] if at else None


def test_both_engines_on_one_card() -> None:
    placed = place(PAIRS["qwq-32b+r1-1.5b"], cards(1, 141, (9, 0)))
    small, base = placed.args("small"), placed.args("base")
    for args in (small, base):
        assert argument(args, "--page-size") == "1"
        assert argument(args, "--attention-backend") == "fa3"
        assert argument(args, "--max-total-tokens") == "236544"
        assert argument(args, "--tp-size") is argument(args, "--base-gpu-id") is None
    assert (
        float(argument(small, "--mem-fraction-static") or 0) < 0.1 < float(argument(base, "--mem-fraction-static") or 0)
    )
    assert placed.env("base") == CHUNK


def test_base_over_two_cards_and_small_on_the_first() -> None:
    """SGLang compares the cards' free memory, and would end where small has taken some of one."""
    placed = place(PAIRS["qwq-32b+r1-1.5b"], cards(2, 80, (8, 0)))
    assert argument(placed.args("base"), "--tp-size") == "2"
    assert argument(placed.args("small"), "--tp-size") is None
    assert placed.env("base") == {"SGLANG_ENABLE_TP_MEMORY_INBALANCE_CHECK": "0"} | CHUNK
    assert placed.env("small") == {}
    assert [words.partition(":")[0] for words in placed.others] == [
        "base on card 1, small alone on card 0",
        "base on card 0, small beside it on card 0",
    ]


def test_a_run_records_where_its_engines_were_put_and_why_their_attention_is_so() -> None:
    """As JSON, for its config.json."""
    record = json.loads(json.dumps(place(PAIRS["qwq-32b+r1-1.5b"], cards(2, 80, (10, 0))).record()))
    assert record["attention"]["backend"] == "flashinfer"
    assert "pages of 16" in record["attention"]["why"]
    assert (record["engines"]["base"]["cards"], record["engines"]["small"]["cards"]) == ([0, 1], [0])
    assert [card["capability"] for card in record["cards"]] == [[10, 0], [10, 0]]


def test_a_card_for_each_where_that_leaves_more_room() -> None:
    placed = place(PAIRS["qwen3-8b+qwen3-0.6b"], cards(2, 80, (8, 0)))
    assert argument(placed.args("base"), "--base-gpu-id") == "1"
    assert placed.env("base") == CHUNK


def test_a_pairs_own_arguments_come_last() -> None:
    pair = load_pair("qwq-32b+r1-1.5b")
    own = Pair(
        name="own", title="", base=pair.base, small=pair.small,
        args={"base": ["--attention-backend", "triton"]}, max_total_tokens={"base": 20000},
    )  # fmt: skip
    placed = place(own, cards(1, 141, (9, 0)))
    assert argument(placed.args("base"), "--attention-backend") == "triton"
    assert argument(placed.args("base"), "--max-total-tokens") == "20000"
    assert argument(placed.args("small"), "--attention-backend") == "fa3"
    assert "come last and win: --attention-backend triton" in placed.text()


@pytest.mark.parametrize(
    ("pair", "found", "words"),
    [
        (
            "qwq-32b+r1-1.5b",
            cards(1, 48, (8, 9)),
            ["does not fit 1 x card (48 GB)", "fp8-checkpoint", "2 such", "80 GB"],
        ),
        ("qwq-32b+r1-1.5b", cards(1, 74, (9, 0)), ['quantization = "fp8" for base', "2 such cards"]),
        ("qwq-32b+r1-1.5b", cards(1, 40, (8, 0)), ["4 such cards", "a card of 80 GB"]),
        ("r1-70b+r1-1.5b", cards(1, 80, (9, 0)), ["131.4 GB of base weights", "2 such cards", "a card of 180 GB"]),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would(pair: str, found: list[Gpu], words: list[str]) -> None:
    with pytest.raises(UsageError) as refusal:
        place(PAIRS[pair], found)
    for word in words:
        assert word in str(refusal.value)
    assert "fp8" not in str(refusal.value) or all(card.capability and card.capability >= (8, 9) for card in found)


def test_memory_that_others_use_is_not_planned_with() -> None:
    free, used = Gpu(name="card", memory_gb=80), Gpu(name="card", memory_gb=80, free_gb=36)
    assert fitting(PAIRS["r1-14b+r1-1.5b"], [free])[0].tokens > fitting(PAIRS["qwen3-8b+qwen3-0.6b"], [used])[0].tokens
    assert fitting(PAIRS["r1-14b+r1-1.5b"], [used]) == []


@pytest.mark.parametrize(
    ("capability", "backend"),
    [((7, 5), "flashinfer"), ((8, 0), "flashinfer"), ((8, 9), "flashinfer"), ((9, 0), "fa3"), ((10, 0), "flashinfer"),
     ((12, 0), "flashinfer"), ((7, 0), "triton"), (None, None)],
)  # fmt: skip
def test_attention_by_card(capability: tuple[int, int] | None, backend: str | None) -> None:
    choice = attention(capability, [128, 64])
    assert choice.backend == backend
    assert choice.why


def test_cards_by_name() -> None:
    assert named("2x80") == [Gpu(name="GPU", memory_gb=80)] * 2
    assert named("1xh100-79.6")[0].capability == (9, 0)
    for wrong in ("", "80", "0x80", "x80", "2x", "65x80", "2x0", "-1x80", "2x8e9", "２x80"):
        with pytest.raises(UsageError, match="--gpus"):
            named(wrong)
    with pytest.raises(UsageError, match="no card named Z9"):
        named("1xZ9-80")


def test_cards_are_numbered_as_cuda_does() -> None:
    """NVIDIA's library lists all cards, engines see those of $CUDA_VISIBLE_DEVICES, in its order, up to the first that is not."""

    class NVMLError(Exception): ...

    def by_index(index: int) -> str:
        if index > 3:
            raise NVMLError
        return f"card {index}"

    nvml = SimpleNamespace(
        NVMLError=NVMLError, nvmlDeviceGetCount=lambda: 4, nvmlDeviceGetHandleByIndex=by_index,
        nvmlDeviceGetHandleByUUID=lambda word: f"uuid {word}",
    )  # fmt: skip
    assert machine._visible(nvml, None) == ["card 0", "card 1", "card 2", "card 3"]
    assert machine._visible(nvml, "2,0") == ["card 2", "card 0"]
    assert machine._visible(nvml, "GPU-7, 1") == ["uuid GPU-7", "card 1"]
    assert machine._visible(nvml, "1,9,0") == ["card 1"]


def test_models_of_unknown_size_get_fixed_shares_and_the_plan_says_so() -> None:
    pair = Pair(name="given", title="", base=Model(model="no/where"), small=Model(model="bundled:small"))
    placed = place(pair, cards(1, 80, (8, 0)))
    assert argument(placed.args("base"), "--mem-fraction-static") == FRACTIONS["base"]
    assert placed.text().startswith("unknown: base: no/where has no config.json on this machine; fixed shares")
    assert placed.record()["engines"] == {}


def given(base: Model, small: Model | None = None, **more: Any) -> Pair:
    return Pair(name="given", title="", base=base, small=small or Model(model="bundled:small"), **more)


def test_models_of_unknown_size_are_not_put_on_the_first_of_several_cards() -> None:
    with pytest.raises(
        UsageError, match=r"over how many of 8 cards base goes.*no/where has no config.json.*tp_size"
    ) as refusal:
        place(given(Model(model="no/where")), cards(8, 80))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("base", "more", "seats"),
    [
        (Model(model="no/where", tp_size=4), {}, ("1", "4")),
        (Model(model="no/where", tp_size=8), {}, (None, "8")),
        (Model(model="no/where"), {"args": {"base": ["--tp-size", "4"]}}, ("1", "4")),
    ],
)
def test_a_split_that_the_file_fixes_is_made_also_where_no_size_is_known(
    base: Model, more: dict[str, Any], seats: tuple[str | None, str]
) -> None:
    args = place(given(base, **more), cards(8, 80)).args("base")
    assert (argument(args, "--base-gpu-id"), argument(args, "--tp-size")) == seats


def test_a_split_of_small_is_made_too() -> None:
    pair = PAIRS["qwen3-8b+qwen3-0.6b"]
    placed = place(structs.replace(pair, small=structs.replace(pair.small, tp_size=2)), cards(4, 24))
    assert argument(placed.args("small"), "--tp-size") == "2"
    assert placed.seats["small"] == (0, 1)


@pytest.mark.parametrize("config", [{}, {"hidden_size": 5120}, {"num_experts": 8}])
def test_a_model_of_unknown_size_is_not_run_on_a_cpu(tmp_path: Path, config: dict[str, Any]) -> None:
    """Whether it is 1B or 32B: what is left of the bundled model's folder here does not tell."""
    model = tmp_path / "model"
    shutil.copytree(BUNDLED / "small", model)
    (model / "model.safetensors").unlink()
    known = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(known | config if config else {"model_type": "qwen2"}))
    if "hidden_size" in config:  # 32B
        (model / "config.json").write_text(
            json.dumps(known | config | {"num_hidden_layers": 64, "intermediate_size": 27648})
        )
    result = invoke("eval", "--bench", "demo", "--base-model", model, "--small-model", BUNDLED / "small", "--dry-run")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert str(model) in result.stderr or "needs GPUs" in result.stderr


PHI4 = Shape(
    layers=40, hidden=5120, intermediate=17920, heads=40, kv_heads=10, head_dim=128, vocabulary=100352, context=16384
)  # microsoft/phi-4


@pytest.mark.parametrize(("count", "taken"), [(1, 1), (2, 2), (4, 2), (8, 2)])
def test_key_value_heads_are_split_evenly(count: int, taken: int) -> None:
    """Of Phi-4's 10 four cards get no whole numbers: SGLang asserts (models/llama.py)."""
    placed = place(given(Model(model="phi", shape=PHI4), PAIRS["qwen3-8b+qwen3-0.6b"].small), cards(count, 48))
    assert len(placed.seats["base"]) <= taken


@pytest.mark.parametrize(
    ("shape", "tp", "words"),
    [
        (PHI4, 4, "tp_size = 4 of base: SGLang cannot split its 10 key-value heads"),
        (PHI4, 3, "its 40 attention heads"),
        # Qwen2.5-72B-Instruct-AWQ's size: 29568 / 2 is no multiple of 128
        (structs.replace(PHI4, intermediate=29568, quantized="awq", bits=4.2, group=128), 2, "in groups of 128"),
        (structs.replace(PHI4, quantized="bitsandbytes", bits=4.3), 2, "its bitsandbytes weights"),
        (PHI4, 16, "tp_size = 16 of base"),
    ],
)
def test_a_split_that_sglang_asserts_against_is_refused(shape: Shape, tp: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        place(given(Model(model="phi", shape=shape, tp_size=tp)), cards(8, 80))


def test_what_a_quantised_checkpoint_needs_of_a_card() -> None:
    gptq = structs.replace(PHI4, quantized="gptq", bits=4.2, group=128)
    with pytest.raises(
        UsageError, match=r"compute capability 7.5, and base, which comes quantised \(gptq\), needs 8.0"
    ):
        check_cards(given(Model(model="phi", shape=gptq)), cards(1, 16, (7, 5)))
    with pytest.raises(UsageError, match="leave it out"):
        check_cards(given(Model(model="phi", shape=gptq, quantization="fp8")), cards(1, 48, (8, 9)))
    check_cards(given(Model(model="phi", shape=gptq)), cards(1, 16, (8, 6)))


def test_cards_on_which_nothing_fits_are_told_what_would(monkeypatch: pytest.MonkeyPatch, shared_data: Path) -> None:
    with pytest.raises(
        UsageError, match=r"1 x card \(8 GB\) found.*the smallest, qwen3-4b\+qwen3-0.6b: .*a card of 24 GB"
    ):
        chosen(monkeypatch, shared_data, cards(1, 8))


def test_the_dry_run_plans_for_cards_that_are_not_here(shared_data: Path) -> None:
    result = invoke(
        "eval", "--bench", "math500", "--data", str(shared_data / "math500.jsonl"), "--gpus", "2xA6000-48", "--dry-run"
    )
    assert result.exit_code == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.lstrip().startswith(("small  ", "base  "))]
    assert rows == [
        ["small", "0", "3.3", "28672", "47104", "1.3", "2.3"],
        ["base", "0,", "1", "30.5", "131072", "47104", "5.8", "3.7"],
    ]
    for words in (
        "pair auto: qwq-32b+r1-1.5b",
        "attention: flashinfer, pages of 1 token",
        "not rendered",
        "--tp-size 2",
    ):
        assert words in result.stdout


def test_gpus_are_only_named_for_a_dry_run() -> None:
    for words, said in ((["2x80"], "--dry-run"), (["lots", "--dry-run"], "--gpus lots: wants COUNTxGB")):
        result = invoke("eval", "--bench", "math500", "--gpus", *words)
        assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
        assert result.stderr.startswith("error: --gpus")
        assert said in result.stderr


def test_sglang_takes_every_argument() -> None:
    """Its own parser, on what is asked for in every layout of every pair."""
    import argparse

    from sglang.srt.server_args import ServerArgs

    parser = argparse.ArgumentParser(exit_on_error=False)
    ServerArgs.add_cli_args(parser)
    seen = set()
    for pair in PAIRS.values():
        for found in (
            cards(1, 24, (8, 9)),
            cards(1, 80, (9, 0)),
            cards(2, 80, (10, 0)),
            cards(3, 80),
            cards(8, 141, (12, 0)),
        ):
            if not fitting(pair, found):
                continue
            placed = place(pair, found)
            for role in ("small", "base"):
                parsed, rest = parser.parse_known_args(["--model-path", "x", *placed.args(role)])  # type: ignore[arg-type]
                assert rest == []
                assert (parsed.page_size, parsed.attention_backend) == (1, placed.attention.backend)
                seen |= {word for word in placed.args(role) if word.startswith("--")}  # type: ignore[arg-type]
    assert seen >= {
        "--tp-size",
        "--base-gpu-id",
        "--quantization",
        "--cuda-graph-backend-prefill",
        "--chunked-prefill-size",
    }
