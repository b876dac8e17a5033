"""Owns the resolution of a command's options into a plan, checked before anything starts.

Knows nothing of click, HTTP or run folders' contents.
"""

from typing import Any, Literal
from urllib.parse import urlsplit

from msgspec import structs

from sgl_specreason.engines.decode import Decode
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.errors import UsageError
from sgl_specreason.method.gates import SIGNALS
from sgl_specreason.method.policy import ALONE, DEFAULT_METHODS, METHODS, Method, Policy, is_alone, policy_of
from sgl_specreason.plan import catalog
from sgl_specreason.plan.benches import Rows, load_rows
from sgl_specreason.plan.catalog import Bench, Sweep
from sgl_specreason.plan.gpus import is_amd
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.pairs import Choice, check_prefixes, engines_for
from sgl_specreason.plan.plan import MOST, Plan, Variant
from sgl_specreason.text.prompts import PLACEHOLDERS, load_prompts
from sgl_specreason.typed import nearest

MOST_WORKERS, MOST_CLIENTS = 4096, 64


def resolve(options: Options) -> Plan:
    """Checks the options and reads every file they name. Raises UsageError; starts and writes nothing."""
    bench = catalog.load_bench(options.bench) if options.bench else catalog.QUESTIONS
    preset = catalog.load_preset(options.preset)
    sweep = catalog.load_sweep(options.sweep) if options.sweep else None
    samples = _positive("samples", options.samples, bench.samples)
    concurrency = _concurrency(options.concurrency, bench.concurrency)
    if options.limit is not None:
        _positive("limit", options.limit, 1)
    prompts = load_prompts(options.prompts)
    _check_prompt(bench)
    _check_urls(options)
    variants = _variants(options, sweep, preset.policy, bench.policy)
    decode = _decode(options, variants)
    choice = engines_for(options, bench, decode)
    pair = choice.pair
    if choice.specs and not all(is_alone(variant.method) for variant in variants):
        check_prefixes(pair)
    whole = {} if pair.think_tags else {"on_budget": "stop"}  # the response is cut, unless somebody asks for an answer
    layers = preset.policy, whole, pair.policy, bench.policy
    if pair.policy or whole:
        variants = _variants(options, sweep, *layers)
    if decode:
        _check_decode(variants, choice)
    return Plan(
        bench=bench,
        rows=load_rows(bench, options.data) if options.bench else Rows(rows=[], origin=catalog.QUESTIONS.title),
        variants=variants,
        sweep=sweep,
        pair=pair.name,
        models={role: pair.model(role) for role in ROLES},
        specs=choice.specs,
        preset=preset.name,
        prompts=prompts,
        samples=samples,
        limit=options.limit,
        seed=options.seed,
        concurrency=concurrency,
        clients=_clients(options.clients, concurrency),
        trust_remote_code=pair.trust_remote_code,
        hardware=choice.hardware,
        decode=decode,
        think_tags=(pair.think_tags[0], pair.think_tags[1]) if pair.think_tags else ("", ""),
        why=choice.why,
        placement=choice.placement,
        elsewhere=options.gpus is not None,
        replicas={spec.role: spec.replicas for spec in choice.specs},
        changed={variant: _changed(variant, options, sweep, *layers) for variant in variants},
    )


def _check_prompt(bench: Bench) -> None:
    """Raises UsageError where the bench's template does not show what its rows have."""
    shown = {"problem", "choices"} if bench.has_choices else {"problem"}
    fitting = [name for name, words in PLACEHOLDERS.items() if set(words) == shown]
    if bench.prompt not in fitting:
        raise UsageError(
            f"bench {bench.name}: prompt = {bench.prompt!r}: for its fields it must be {' or '.join(fitting)}"
        )


def _check_urls(options: Options) -> None:
    if (options.base_url is None) != (options.small_url is None):
        raise UsageError("--base-url and --small-url go together: give both or neither")
    for option, url in (("--base-url", options.base_url), ("--small-url", options.small_url)):
        if url is not None and not _is_url(url):
            raise UsageError(f"{option} {url}: must be http://HOST:PORT or https://HOST:PORT")
        if url is not None and "@" in urlsplit(url).netloc:
            raise UsageError(f"{option}: a user and a password in a URL are not sent; give a key with --api-key")


def _decode(options: Options, variants: tuple[Variant, ...]) -> Decode | None:
    """How base speculates for the methods with +decode; None where there is none."""
    given = {"algorithm": options.decode, "tokens": options.decode_tokens, "model": options.decode_model}
    given = {name: value for name, value in given.items() if value is not None}
    if any(variant.speculates for variant in variants):
        return Decode(**given)  # type: ignore[arg-type]
    if given:
        raise UsageError("--decode, --decode-tokens and --decode-model are for methods with +decode")
    return None


def _check_decode(variants: tuple[Variant, ...], choice: Choice) -> None:
    """Raises UsageError for what cannot be of methods with +decode."""
    speculating = [variant.policy for variant in variants if variant.speculates]
    if least := max(policy.min_p for policy in speculating):
        raise UsageError(
            f"--min-p {least:g}: SGLang leaves it out where it speculates, and says nothing; give --min-p 0, or methods "
            "without +decode"
        )
    if choice.specs and choice.placement is None:
        raise UsageError(
            "methods with +decode need a GPU, since the kernels of SGLang's speculation do; "
            "or give --base-url of a server that speculates"
        )
    if choice.placement and any(map(is_amd, choice.placement.cards)) and any(each.temperature for each in speculating):
        raise UsageError(
            "methods with +decode on AMD's cards: SGLang takes the likeliest token there, whatever the temperature; give "
            "--temperature 0"
        )
    if not choice.specs and len({variant.speculates for variant in variants}) > 1:
        raise UsageError("a running base speculates or does not: methods with +decode and others are two runs then")


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
            raise UsageError(f"no method named {method!r}{nearest(method, METHODS)}")
    return tuple(method for method in METHODS if method in asked)


def _variants(options: Options, sweep: Sweep | None, *layers: dict[str, Any]) -> tuple[Variant, ...]:
    """Each method at each point of the sweep; what is the same for a method at several points is there once.

    Of the settings in `layers` the later ones win, and then those of the options.
    """
    methods = _methods(options.methods or (sweep.methods if sweep else DEFAULT_METHODS))
    given = _given(options)
    policies = [catalog.build_policy(*layers, given, point) for point in (sweep.settings() if sweep else [{}])]
    found = tuple(
        dict.fromkeys(Variant(method, policy_of(method, policy)) for policy in policies for method in methods)
    )
    if "gate_p" in given and not any(variant.policy.gate == "random" for variant in found):
        raise UsageError(
            f"--gate-p and --match-acceptance are for a coin: give --method random; {', '.join(SIGNALS)} have --gate-threshold"
        )
    return found


def _given(options: Options) -> dict[str, Any]:
    """The settings of the method that are asked for."""
    given = {key: value for key, value in options.policy.items() if value is not None}
    if options.match_acceptance is not None:
        if "gate_p" in given:
            raise UsageError("give --gate-p or --match-acceptance, not both")
        given["gate_p"] = options.match_acceptance
    return given


def _changed(variant: Variant, options: Options, sweep: Sweep | None, *layers: dict[str, Any]) -> dict[str, Any]:
    """What a variant has by an option or by its point of the sweep, and would have otherwise by these layers."""
    asked = dict.fromkeys([*_given(options), *(sweep.varied if sweep else ())])
    before = structs.asdict(Policy()) | {key: value for layer in layers for key, value in layer.items()}
    own = {key: getattr(variant.policy, key) for key in asked if not is_alone(variant.method) or key in ALONE}
    return {key: value for key, value in own.items() if value is not None and value != before[key]}


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


def _clients(count: int, concurrency: int | Literal["auto"]) -> int:
    if not 1 <= count <= MOST_CLIENTS:
        raise UsageError(f"--clients {count}: must be from 1 to {MOST_CLIENTS}")
    if concurrency == "auto" and count > 1:
        raise UsageError(f"--clients {count}: --concurrency auto tries up to {MOST}, with which one client keeps up")
    if concurrency != "auto" and count > concurrency:
        raise UsageError(f"--clients {count}: more than run side by side (--concurrency {concurrency})")
    return count


def _positive(name: str, value: int | None, default: int) -> int:
    value = default if value is None else value
    if value < 1:
        raise UsageError(f"--{name} {value}: must be at least 1")
    return value
