"""Owns the choice of the two models and of how their engines are started on this machine. Starts nothing itself."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sgl_specreason.engines import arguments, replicas
from sgl_specreason.engines.cards import order
from sgl_specreason.engines.decode import Decode
from sgl_specreason.engines.servers import ROLES, EngineSpec, cpu_args, cpu_env
from sgl_specreason.errors import UsageError
from sgl_specreason.plan import catalog, checkpoints, gpus
from sgl_specreason.plan.catalog import Bench, Model, Pair
from sgl_specreason.plan.checkpoints import HYBRID
from sgl_specreason.plan.fitting import draft_shape, fitting, in_words, needs_gpu, remedies, shape_of
from sgl_specreason.plan.memory import TRAJECTORY_TOKENS, Layout
from sgl_specreason.plan.options import Options
from sgl_specreason.plan.placement import Placement, check_cards, place
from sgl_specreason.plan.plan import ATTACHED
from sgl_specreason.plan.shapes import Shape
from sgl_specreason.text.steps import Author
from sgl_specreason.text.tokenizers import no_model

LONGEST_PART = 48
AUTO = "auto"
CPU_CACHE_TOKENS = 32768
"""Of a pair whose file says nothing, on a machine without a GPU."""
COMFORT = 3
"""Side by side, so many trajectories should have room where there is a choice of pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The pair, why it was chosen, and how its engines are started. `specs` is empty where running servers are used."""

    pair: Pair
    why: str = ""
    specs: tuple[EngineSpec, ...] = ()
    hardware: str
    placement: Placement | None = None


def engines_for(options: Options, bench: Bench, decode: Decode | None = None) -> Choice:
    """The pair and how to start it, with room for the speculation with which base is also served.

    Attached servers name their own models later. Raises UsageError for what cannot fit.
    """
    counts: dict[Author, int] = {"small": options.small_replicas, "base": options.base_replicas}
    for role, count in counts.items():
        replicas.check(role, count)
    if (options.base_model is None) != (options.small_model is None):
        raise UsageError("--base-model and --small-model go together: give both or neither")
    if options.base_url is not None:
        return _attached(options)
    _check_models(_named(options))
    cards = gpus.named(options.gpus) if options.gpus else gpus.found()
    return _on_gpus(options, bench, decode, cards, counts) if cards else _on_this_cpu(options, bench, decode, counts)


def _check_models(pair: Pair | None) -> None:
    """Raises UsageError for a name that no model can have, before anything is reckoned with it."""
    for role, model in pair.models.items() if pair else ():
        if words := no_model(model.path):
            raise UsageError(f"{role} model {model.path or repr('')}: {words}")


def _on_gpus(
    options: Options, bench: Bench, decode: Decode | None, cards: Sequence[gpus.Gpu], counts: dict[Author, int]
) -> Choice:
    """The pair on the cards of one replica of each engine, and as many of these as there are to be."""
    group = gpus.of_one_replica(cards, counts)
    named = _named(options)
    with _of_one_replica(cards, group):
        pair, why = (named, "") if named else _automatic_pair(bench, group, decode)
    check_cards(pair, cards)
    _check_vocabularies(pair, decode)
    _check_decode(pair, decode)
    with _of_one_replica(cards, group):
        placement = place(pair, group * replicas.machines(pair.args), decode)
    _check_args(pair)
    specs = tuple(replicas.spread(_on_gpu(placement, role), counts[role], len(group)) for role in ROLES)
    return Choice(pair=pair, why=why, specs=specs, hardware=in_words(cards), placement=placement)


@contextmanager
def _of_one_replica(cards: Sequence[gpus.Gpu], group: Sequence[gpus.Gpu]) -> Iterator[None]:
    """What cannot be of some of the cards is said to be of one replica's part of them."""
    try:
        yield
    except UsageError as error:
        if len(group) == len(cards):
            raise
        raise UsageError(f"one replica's part of {in_words(cards)}: {error}") from None


def _on_this_cpu(options: Options, bench: Bench, decode: Decode | None, counts: dict[Author, int]) -> Choice:
    named = _named(options)
    pair, why = (named, "") if named else _automatic_pair(bench, (), decode)
    if needs_gpu(pair):
        raise UsageError(
            f"pair {pair.name} needs GPUs ({' or '.join(remedies(pair, ())) or 'several'}) and this machine has no GPU; "
            "try --pair demo, or --base-url and --small-url of running servers; --gpus with --dry-run plans for other machines"
        )
    if hybrids := [role for role, model in pair.models.items() if (shape := shape_of(model)) and shape.state]:
        raise UsageError(f"{hybrids[0]} is a hybrid (layers that keep a state), whose kernels need a GPU")
    _check_vocabularies(pair, decode)
    _check_decode(pair, decode)
    _check_args(pair)
    specs = tuple(replicas.spread(_on_cpu(pair, role), counts[role], 0) for role in ROLES)
    return Choice(pair=pair, why=why, specs=specs, hardware="none (CPU, pure torch)")


def _attached(options: Options) -> Choice:
    """Running servers: a pair's tags and policy are those of what they serve, its models where tokenizers are to be had."""
    if max(options.base_replicas, options.small_replicas) > 1:
        raise UsageError("--base-replicas and --small-replicas start engines: give a running router as --base-url")
    if options.gpus:
        raise UsageError("--gpus is for engines that would be started, not for running servers")
    pair = Pair(name=ATTACHED, title="running servers", base=Model(model=""), small=Model(model=""))
    if options.pair == AUTO:
        raise UsageError(
            "--pair auto is for engines that would be started: name the pair that the servers have, or none"
        )
    return Choice(pair=_named(options) or pair, hardware="unknown (attached servers)")


def _check_vocabularies(pair: Pair, decode: Decode | None) -> None:
    """Raises UsageError where the shapes alone tell that SGLang refuses small as a draft model."""
    shapes = {role: shape_of(model) for role, model in pair.models.items()}
    if decode:
        decode.check_sizes({role: shape.vocabulary if shape else None for role, shape in shapes.items()})


def _check_decode(pair: Pair, decode: Decode | None) -> None:
    """Raises UsageError where base's own arguments, or the kind of the model that guesses, exclude speculation."""
    own = pair.args.get("base", [])
    if any(word.startswith("--speculative-algo") for word in own):
        raise UsageError(f"pair {pair.name}: args.base: --speculative-algorithm is for methods with +decode (--decode)")
    if decode is None:
        return
    decode.check_args(own)
    draft = draft_shape(pair, decode)
    if draft.state if isinstance(draft, Shape) else HYBRID in (draft or ""):
        raise UsageError(
            f"--decode {decode.algorithm}: {decode.draft_model(pair.small.path)} is a hybrid, and SGLang has no states for "
            "one that guesses; give --decode ngram, or a dense --decode-model"
        )


def check_prefixes(pair: Pair) -> None:
    """Raises UsageError where base is a hybrid of which no judgement's states are kept for the next one."""
    shape, own = shape_of(pair.base), pair.args.get("base", [])
    if shape and shape.state and "no_buffer" in own:
        why = "args.base: no_buffer"
    elif not checkpoints.leaves_snapshots(pair.base.path):
        why = f"{pair.base.path}, a hybrid"
    else:
        return
    raise UsageError(
        f"pair {pair.name}: {why}: SGLang keeps its states at the ends of requests only, so each judgement would compute its "
        "whole context again; take another base, or the methods base and small"
    )


def _check_args(pair: Pair) -> None:
    """Raises UsageError for arguments of the pair's file that SGLang does not know."""
    for role, words in pair.args.items():
        try:
            arguments.check(words)
        except UsageError as error:
            raise UsageError(f"pair {pair.name}: args.{role}: {error}") from None


def _named(options: Options) -> Pair | None:
    """The pair that was asked for; None where one is to be chosen."""
    if options.base_model is not None and options.small_model is not None:
        if options.pair:
            raise UsageError("give --pair or --base-model and --small-model, not both")
        name = "+".join(map(_part, (options.base_model, options.small_model)))
        base, small = Model(model=options.base_model), Model(model=options.small_model)
        return Pair(name=name, title="given models", base=base, small=small)
    return catalog.load_pair(options.pair) if options.pair and options.pair != AUTO else None


def _automatic_pair(bench: Bench, cards: Sequence[gpus.Gpu], decode: Decode | None) -> tuple[Pair, str]:
    """The pair for these cards, and why: of those with room for COMFORT trajectories the one with the largest base."""
    if bench.source.generator == "demo":
        return catalog.load_pair("demo"), "pair auto: demo, which was trained for this bench"
    if bench is catalog.QUESTIONS and not cards:
        return catalog.load_pair("demo"), "pair auto: demo, since no GPU was found"
    if not all(card.memory_gb for card in cards):
        raise UsageError(f"--pair auto: {in_words(cards)}: a pair cannot be chosen for it; name one with --pair")
    pairs = [pair for name in catalog.names("pairs") if (pair := catalog.load_pair(name)).auto]
    pairs = [pair for pair in pairs if _can_draft(pair, decode)]
    suiting = [pair for pair in pairs if _suits(pair, cards)]
    found = [
        (pair, layouts[0])
        for pair in suiting
        if (layouts := fitting(pair, [*cards] * replicas.machines(pair.args), decode))
    ]
    if not found:
        least = min(pairs, key=lambda pair: pair.base.shape.parameters if pair.base.shape else math.inf, default=None)
        raise UsageError(
            f"--bench {bench.name}: {in_words(cards)} found, and every pair that can answer it needs more"
            + (f" (the smallest, {least.name}: {' or '.join(remedies(least, cards, decode))})" if least else "")
            + "; use --base-url and --small-url of running servers, or --pair demo to try the plumbing (its tiny models cannot "
            "answer this)"
        )
    comfortable = [item for item in found if item[1].tokens >= COMFORT * TRAJECTORY_TOKENS]
    pair, layout = max(comfortable, key=_size) if comfortable else max(found, key=lambda item: item[1].tokens)
    rule = f"the largest base with room for {COMFORT} trajectories" if comfortable else "the roomiest of those that fit"
    room = f"{layout.tokens:,} tokens in each cache are {layout.tokens // TRAJECTORY_TOKENS} of {TRAJECTORY_TOKENS:,}"
    return pair, f"pair auto: {pair.name} on {in_words(cards)}: {rule} ({room})"


def _size(item: tuple[Pair, Layout]) -> tuple[int, bool, int]:
    """The base's parameters; of the same base, one at 16 bits; then the roomier one."""
    pair, layout = item
    parameters = pair.base.shape.parameters if pair.base.shape else 0
    return parameters, pair.base.quantization == "none", layout.tokens


def _can_draft(pair: Pair, decode: Decode | None) -> bool:
    """Whether small can guess base's tokens, as far as the shapes tell."""
    try:
        _check_vocabularies(pair, decode)
    except UsageError:
        return False
    return True


def _suits(pair: Pair, cards: Sequence[gpus.Gpu]) -> bool:
    """8 bits only where the cards are known to compute with them."""
    return pair.base.quantization == "none" or all(card.capability and card.capability >= gpus.FP8 for card in cards)


def _on_gpu(placement: Placement, role: Author) -> EngineSpec:
    return _spec(placement.pair, role, placement.args(role), order() | placement.env(role))


def _on_cpu(pair: Pair, role: Author) -> EngineSpec:
    args = (*cpu_args(pair.max_total_tokens.get(role, CPU_CACHE_TOKENS)), *pair.args.get(role, ()))
    return _spec(pair, role, args, cpu_env())


def _spec(pair: Pair, role: Author, args: tuple[str, ...], env: dict[str, str]) -> EngineSpec:
    trust = ("--trust-remote-code",) if pair.trust_remote_code else ()
    # SGLang takes priorities with its own order of requests only
    priority = () if "--schedule-policy" in args else ("--enable-priority-scheduling",)
    return EngineSpec(role=role, model=pair.model(role), args=(*args, *priority, *trust), env=env)


def _part(model: str) -> str:
    """What of a model's name can stand in a folder's name."""
    name = Path(model).name if Path(model).is_absolute() else model
    return re.sub(r"[^\w.+-]", "_", name, flags=re.ASCII)[:LONGEST_PART]
