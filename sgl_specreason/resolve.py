"""Owns the resolution of a command's options into a plan, checked before anything starts.

Knows nothing of click, HTTP or run folders' contents.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from sgl_specreason import catalog
from sgl_specreason.benches import load_rows
from sgl_specreason.catalog import Sweep, nearest
from sgl_specreason.decode import Decode
from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.pairs import ROLES, engines_for
from sgl_specreason.plan import Plan, Variant
from sgl_specreason.policy import DEFAULT_METHODS, METHODS, Method, policy_of
from sgl_specreason.prompts import PLACEHOLDERS, load_prompts
from sgl_specreason.summary import load_runs

MOST_WORKERS = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the user asked for; None means: the bench's or the preset's."""

    bench: str
    methods: tuple[str, ...] = ()
    pair: str | None = None
    base_model: str | None = None
    small_model: str | None = None
    base_url: str | None = None
    small_url: str | None = None
    base_replicas: int = 1
    small_replicas: int = 1
    gpus: str | None = None
    preset: str = "default"
    sweep: str | None = None
    match_acceptance: Path | None = None
    prompts: Path | None = None
    data: Path | None = None
    samples: int | None = None
    limit: int | None = None
    seed: int = 0
    concurrency: int | str | None = None
    decode: str | None = None
    decode_tokens: int | None = None
    decode_model: str | None = None
    policy: dict[str, Any]


def resolve(options: Options) -> Plan:
    """Checks the options and reads every file they name. Raises UsageError; starts and writes nothing."""
    bench = catalog.load_bench(options.bench)
    preset = catalog.load_preset(options.preset)
    sweep = catalog.load_sweep(options.sweep) if options.sweep else None
    methods = _methods(options.methods or tuple(sweep.methods if sweep else DEFAULT_METHODS))
    given = {key: value for key, value in options.policy.items() if value is not None}
    samples = _positive("samples", options.samples, bench.samples)
    concurrency = _concurrency(options.concurrency, bench.concurrency)
    if options.limit is not None:
        _positive("limit", options.limit, 1)
    prompts = load_prompts(options.prompts)
    shown = {"problem", "choices"} if "wrong" in bench.fields else {"problem"}
    fitting = [name for name, words in PLACEHOLDERS.items() if set(words) == shown]
    if bench.prompt not in fitting:
        raise UsageError(
            f"bench {bench.name}: prompt = {bench.prompt!r}: for its fields it must be {' or '.join(fitting)}"
        )
    if (options.base_url is None) != (options.small_url is None):
        raise UsageError("--base-url and --small-url go together: give both or neither")
    for option, url in (("--base-url", options.base_url), ("--small-url", options.small_url)):
        if url is not None and not _is_url(url):
            raise UsageError(f"{option} {url}: must be http://HOST:PORT or https://HOST:PORT")
    choice = engines_for(options, bench)
    pair, specs = choice.pair, choice.specs
    layers = (preset.policy, pair.policy, bench.policy, given)
    variants = _variants(methods, layers, options.match_acceptance, sweep)
    rows = load_rows(bench, options.data)
    return Plan(
        bench=bench,
        rows=rows,
        variants=variants,
        sweep=sweep,
        pair=pair.name,
        models={role: pair.model(role) for role in ROLES},
        specs=specs,
        preset=preset.name,
        prompts=prompts,
        samples=samples,
        limit=options.limit,
        seed=options.seed,
        concurrency=concurrency,
        trust_remote_code=pair.trust_remote_code,
        hardware=choice.hardware,
        decode=_decode(options, variants, starts=bool(specs), on_gpu=choice.placement is not None),
        think_tags=(pair.think_tags[0], pair.think_tags[1]),
        why=choice.why,
        placement=choice.placement,
        elsewhere=options.gpus is not None,
        replicas={spec.role: spec.replicas for spec in specs},
    )


def _decode(options: Options, variants: tuple[Variant, ...], *, starts: bool, on_gpu: bool) -> Decode | None:
    given = {"algorithm": options.decode, "tokens": options.decode_tokens, "model": options.decode_model}
    given = {name: value for name, value in given.items() if value is not None}
    kinds = {variant.speculates for variant in variants}
    if True not in kinds:
        if given:
            raise UsageError("--decode, --decode-tokens and --decode-model are for methods with +decode")
        return None
    if starts and not on_gpu:
        raise UsageError(
            "methods with +decode need a GPU, since the kernels of SGLang's speculation do; "
            "or give --base-url of a server that speculates"
        )
    if not starts and len(kinds) > 1:
        raise UsageError("a running base speculates or does not: methods with +decode and others are two runs then")
    return Decode(**given)  # type: ignore[arg-type]


def _is_url(text: str) -> bool:
    """Whether it can be the address of a server."""
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0 and text.isprintable()
    except ValueError:
        return False


def _methods(asked: tuple[str, ...]) -> tuple[Method, ...]:
    for method in asked:
        if method not in METHODS:
            raise UsageError(f"no method named {method!r}{nearest(method, list(METHODS))}")
    return tuple(method for method in METHODS if method in asked)


def _variants(
    methods: tuple[Method, ...], layers: tuple[dict[str, Any], ...], match: Path | None, sweep: Sweep | None
) -> tuple[Variant, ...]:
    """Each method at each point of the sweep; what is the same for a method at several points is there once."""
    if match is not None:
        if layers[-1].get("gate_p") is not None:
            raise UsageError("give --gate-p or --match-acceptance, not both")
        layers = (*layers, {"gate_p": acceptance(match)})
    points = sweep.points() if sweep else [{}]
    policies = [catalog.build_policy(*layers, point) for point in points]
    found = (Variant(method, policy_of(method, policy)) for policy in policies for method in methods)
    return tuple(dict.fromkeys(found))


def acceptance(folder: Path) -> float:
    """The share of its drafts that a run of SpecReason kept. Raises UsageError where `folder` has no such run."""
    try:
        runs = [
            run
            for run in load_runs(folder)
            if run.method == "specreason" and run.summary["drafts"] and not run.is_replay
        ]
    except RecordError as error:
        raise UsageError(f"--match-acceptance {folder}: {error}") from None
    if len(runs) != 1:
        raise UsageError(f"--match-acceptance {folder}: holds {len(runs)} runs of specreason with drafts, not one")
    return float(runs[0].summary["acceptance"])


def _concurrency(value: int | str | None, default: int) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    try:
        level = _positive("concurrency", None if value is None else int(value), default)
    except ValueError:
        raise UsageError(f"--concurrency {value}: neither a whole number nor auto") from None
    if level > MOST_WORKERS:
        raise UsageError(f"--concurrency {level}: must be at most {MOST_WORKERS}")
    return level


def _positive(name: str, value: int | None, default: int) -> int:
    value = default if value is None else value
    if value < 1:
        raise UsageError(f"--{name} {value}: must be at least 1")
    return value
