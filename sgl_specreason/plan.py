"""Owns the resolution of a command's options into everything a run needs, checked before anything starts.

Knows nothing of click, HTTP or run folders.
"""

from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, NamedTuple
from urllib.parse import urlsplit

from sgl_specreason import catalog
from sgl_specreason.benches import Row, Rows, load_rows
from sgl_specreason.catalog import Bench, Sweep, nearest
from sgl_specreason.decode import Decode
from sgl_specreason.engines import EngineSpec
from sgl_specreason.errors import RecordError, UsageError
from sgl_specreason.knee import MOST
from sgl_specreason.pairs import ROLES, engines_for, short_name
from sgl_specreason.placement import Placement
from sgl_specreason.policy import DEFAULT_METHODS, METHODS, Author, Method, Policy, plain, policy_of
from sgl_specreason.prompts import PLACEHOLDERS, ChatFormat, PromptSet, load_prompts
from sgl_specreason.records import digest
from sgl_specreason.summary import load_runs
from sgl_specreason.trajectory import Texts, Trajectory, sampling_seed

MOST_WORKERS = 4096
PACKAGES = ("sgl-specreason", "sglang", "torch", "transformers", "flashinfer-python", "math-verify")


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


class Variant(NamedTuple):
    """A method with its settings: what one run folder is about."""

    method: Method
    policy: Policy

    @property
    def speculates(self) -> bool:
        """Whether base is served with token-level speculation for it."""
        return self.method != plain(self.method)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run, resolved: its problems, models, variants and prompts. `specs` is empty where running servers are used.

    `concurrency` is "auto" until it has been measured on the engines, `replicas` is how many of each there are. `why` says why
    this pair was chosen where nobody named one; `elsewhere` that the GPUs are not this machine's.
    """

    bench: Bench
    rows: Rows
    variants: tuple[Variant, ...]
    sweep: Sweep | None
    pair: str
    models: dict[Author, str]
    specs: tuple[EngineSpec, ...]
    preset: str
    prompts: PromptSet
    samples: int
    limit: int | None
    seed: int
    concurrency: int | Literal["auto"]
    trust_remote_code: bool
    hardware: str
    decode: Decode | None = None
    think_tags: tuple[str, str] = ("<think>", "</think>")
    why: str = ""
    placement: Placement | None = None
    elsewhere: bool = False
    replicas: dict[Author, int] = field(default_factory=dict)

    @property
    def problems(self) -> list[Row]:
        return self.rows.rows[: self.limit]

    @property
    def workers(self) -> int:
        """How many trajectories may run side by side: as many as are ever tried where that is still to be measured."""
        return MOST if self.concurrency == "auto" else self.concurrency

    @property
    def expected(self) -> int:
        """How many trajectories each variant has."""
        return len(self.problems) * self.samples

    @property
    def stages(self) -> dict[bool, tuple[Variant, ...]]:
        """The variants by whether base speculates for them: one start of base each, one after the other."""
        found: dict[bool, tuple[Variant, ...]] = {}
        for variant in self.variants:
            found[variant.speculates] = (*found.get(variant.speculates, ()), variant)
        return found

    def settings(self, variant: Variant) -> dict[str, Any]:
        """Everything that a run's numbers depend on and that resuming must not change."""
        return {
            "bench": self.bench.name,
            "method": variant.method,
            "pair": self.pair,
            "models": {role: short_name(model) for role, model in self.models.items()},
            "preset": self.preset,
            "policy": asdict(variant.policy),
            "prompts": self.prompts.hashes,
            "dataset_sha256": self.rows.sha256,
            "samples": self.samples,
            "limit": self.limit,
            "seed": self.seed,
            "concurrency": self.concurrency,
            **({"decode": asdict(self.decode)} if self.decode and variant.speculates else {}),
            **self.several,
        }

    def name(self, variants: tuple[Variant, ...]) -> str:
        """The folder's name for these variants: <bench>-<method>-<pair>-<digest of the settings>."""
        label = variants[0].method if len(variants) == 1 else f"sweep-{self.sweep.name}" if self.sweep else "compare"
        settings = [self.settings(variant) for variant in variants]
        code = digest(settings[0] if len(settings) == 1 else {"runs": settings})
        return f"{self.bench.name}-{label}-{self.pair}-{code}"

    def conditions(self) -> dict[str, Any]:
        """What a number must never be without (design.md)."""
        return {
            "prompts": self.prompts.hashes,
            "models": {role: short_name(model) for role, model in self.models.items()},
            "versions": versions(),
            "gpu": self.hardware,
            "dataset_sha256": self.rows.sha256,
            "dataset_origin": self.rows.origin,
            **self.several,
        }

    @property
    def several(self) -> dict[str, Any]:
        """How many replicas there are, where there are several of an engine."""
        return {"replicas": self.replicas} if any(count > 1 for count in self.replicas.values()) else {}

    def texts(self, row: Row, chats: dict[Author, ChatFormat]) -> Texts:
        """The rendered texts of one problem."""
        content = self.prompts[self.bench.prompt].fill(**row.values())
        base = chats["base"]
        prompts = {role: chat.prompt(content) for role, chat in chats.items()}
        return Texts(
            prompts=prompts,
            contents={role: chat.content(prompts[role]) for role, chat in chats.items()},
            judge_open=base.judge_turn(self.prompts, thinking=True),
            judge_closed=base.judge_turn(self.prompts, thinking=False),
            binary_open=base.judge_turn(self.prompts, "judge_binary", thinking=True),
            binary_closed=base.judge_turn(self.prompts, "judge_binary", thinking=False),
            close=self.prompts["close"].fill(think_end=base.think_end),
            think_end=base.think_end,
        )

    def trajectory(self, variant: Variant, row: Row, sample: int, chats: dict[Author, ChatFormat]) -> Trajectory:
        """A trajectory of this problem, ready to run. Variants share no cache, or one would run on what another computed."""
        return Trajectory(
            problem_id=row.id,
            sample=sample,
            sampling_seed=sampling_seed(self.seed, row.id, sample),
            policy=variant.policy,
            texts=self.texts(row, chats),
            cache_key=digest(self.settings(variant)),
        )


def resolve(options: Options) -> Plan:
    """Checks the options and reads every file they name. Raises UsageError; starts and writes nothing."""
    bench = catalog.load_bench(options.bench)
    preset = catalog.load_preset(options.preset)
    sweep = catalog.load_sweep(options.sweep) if options.sweep else None
    methods = _methods(options.methods or tuple(sweep.methods if sweep else DEFAULT_METHODS))
    given = {key: value for key, value in options.policy.items() if value is not None}
    variants = _variants(methods, (preset.policy, bench.policy, given), options.match_acceptance, sweep)
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
    if pair.policy:
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


def versions() -> dict[str, str]:
    """The versions of the packages that a result depends on."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
