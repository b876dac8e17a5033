"""Owns whether prompts and budgets fit the engines' contexts and caches, asked before any trajectory runs. Starts nothing.

What SGLang takes was read in 0.5.23: tokenizer_manager.py, tp_worker.py, scheduler.py, model_config.py.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sgl_specreason.engines.servers import EngineSpec, number_given
from sgl_specreason.errors import UsageError, one_line
from sgl_specreason.method.policy import is_alone, plain
from sgl_specreason.method.trajectory import Texts
from sgl_specreason.plan.checkpoints import config_file, files_gb, shape
from sgl_specreason.plan.fitting import CPU_GB
from sgl_specreason.plan.memory import STATES
from sgl_specreason.plan.plan import MOST, Plan, Variant
from sgl_specreason.plan.shapes import Shape
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import BLANK_LINE, Author
from sgl_specreason.text.vocabulary import Vocabulary
from sgl_specreason.words import counted

INPUT_SPARE, TOTAL_SPARE = 7, 2
"""A prompt is refused above a context of this many tokens less; prompt and reply together are cut there."""
MAX_REQ_INPUT_LEN_IS_LESS = 6
UNKNOWN_KIND = "does not recognize this architecture"
CONTEXT_KEYS = ("max_sequence_length", "seq_length", "max_seq_len", "model_max_length", "max_position_embeddings")


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How many tokens of one trajectory an engine can hold, and what to change where that is too little."""

    tokens: int
    remedy: str


def check(plan: Plan, chats: dict[Author, ChatFormat], rooms: dict[Author, Room]) -> None:
    """Raises UsageError, naming the settings to change, where a trajectory at its budget may not fit an engine of `rooms`."""
    rows = [(row.id, plan.texts(row, chats)) for row in plan.problems]
    lacks: list[tuple[int, str]] = []
    for role, room in rooms.items():
        if not (variants := _on(plan, role)):
            continue
        vocabulary = chats[role].vocabulary
        budget = max(variant.policy.budget_tokens for variant in variants)
        rest = max(rest_of(vocabulary, rows[0][1], variant, role) for variant in variants)
        # a token is at least a byte: most prompts need not be tokenised
        long = [
            (name, texts) for name, texts in rows if len(texts.prompts[role].encode()) > room.tokens - budget - rest
        ]
        sizes = [(len(vocabulary.framed(texts.prompts[role], texts.contents[role])), name) for name, texts in long]
        prompt, problem = max(sizes, default=(0, ""))
        if prompt + budget + rest > room.tokens:
            fitting = room.tokens - prompt - rest
            words = (
                f"problem {problem} may need {prompt + budget + rest} tokens on {role}, which holds {room.tokens}: "
                f"{prompt} of prompt, {budget} of --budget-tokens, {rest} for judging, or closing and --answer-tokens; "
                + (f"--budget-tokens {fitting} fits" if fitting > 0 else "no --budget-tokens fits")
                + f"; else give a smaller --answer-tokens or {room.remedy}"
            )
            lacks.append((fitting, words))
    if lacks:
        raise UsageError(min(lacks)[1])


def check_budgets(plan: Plan) -> None:
    """Raises UsageError where budget and answer alone are more than a planned cache holds: no tokenizer is needed to tell."""
    for role, tokens in caches(plan.specs).items():
        variants = _on(plan, role)
        if variants and (most := max(_at_most(variant, role) for variant in variants)) > tokens:
            variant = max(variants, key=lambda variant: _at_most(variant, role))
            raise UsageError(
                f"{role}'s cache holds {tokens} tokens, and a trajectory may need {most} besides its prompt "
                f"({variant.policy.budget_tokens} of --budget-tokens, the rest of --answer-tokens): give a smaller "
                f"--budget-tokens or {_cache_room(role, tokens).remedy}"
            )


def caches(specs: Sequence[EngineSpec]) -> dict[Author, int]:
    """How many tokens each engine's cache will hold; nothing of one whose cache SGLang sizes."""
    found = {spec.role: number_given(spec.args, "--max-total-tokens") for spec in specs}
    return {role: tokens for role, tokens in found.items() if tokens}


def held(infos: dict[Author, dict[str, Any]]) -> dict[Author, int]:
    """How many tokens the caches of running engines hold by their own /server_info; nothing of one that does not say."""
    found = {role: info.get("max_total_num_tokens") for role, info in infos.items()}
    return {role: tokens for role, tokens in found.items() if isinstance(tokens, int)}


def places(plan: Plan, tokens: dict[Author, int]) -> dict[Author, int]:
    """How many trajectories at their budget caches of so many tokens have room for, over all replicas, prompts not counted.

    No more than a hybrid's states let run.
    """
    pools = {spec.role: number_given(spec.args, "--max-mamba-cache-size") for spec in plan.specs}
    found = {}
    for role, count in tokens.items():
        if variants := _on(plan, role):
            replicas, pool = plan.replicas.get(role, 1), pools.get(role)
            room = count * replicas // max(_at_most(variant, role) for variant in variants)
            found[role] = min(room, pool // STATES * replicas) if pool else room
    return found


def crowding(plan: Plan, tokens: dict[Author, int]) -> list[str]:
    """What is to be said of trajectories that cannot all be in the caches at once, where each holds so many tokens."""
    room = places(plan, tokens)
    if plan.concurrency == "auto" or not room:
        return []
    most = max(min(room.values()), 1)
    if min(plan.concurrency, plan.expected) <= most:
        return []
    room_for = counted(most, "trajectory", "trajectories")
    return [
        f"--concurrency {plan.concurrency}: the caches have room for {room_for} at the budget; of more some wait, or "
        f"lose what was computed of them and pay for it again. Give --concurrency {most}, a smaller budget, or more cache"
    ]


def of_one_client(plan: Plan) -> list[str]:
    """What is to be said of more trajectories side by side than the client processes may keep up with."""
    enough = -(-min(plan.workers, plan.expected) // MOST)
    if plan.clients >= enough:
        return []
    return [f"--concurrency {plan.concurrency}: one client process keeps up with about {MOST}; give --clients {enough}"]


def cut_short(plan: Plan) -> list[str]:
    """What is to be said of budgets beyond what a pair's file states as its models' contexts."""
    lines = []
    for role, model in plan.placement.pair.models.items() if plan.placement else ():
        context = model.shape.context if model.shape else 0
        most = max((_at_most(variant, role) for variant in _on(plan, role)), default=0)
        if context and most > context:
            lines.append(
                f"{role}: the pair's file states a context of {context:,} tokens; a thought and an answer of {most:,} end there"
            )
    return lines


def _on(plan: Plan, role: Author) -> list[Variant]:
    """The variants whose trajectories are in this engine's cache."""
    return [variant for variant in plan.variants if not is_alone(variant.method) or plain(variant.method) == role]


def _at_most(variant: Variant, role: Author) -> int:
    """What an engine holds of a trajectory at its budget, without the prompt."""
    policy = variant.policy
    return policy.budget_tokens + (policy.answer_tokens if _answers(variant) == role else 0)


def _answers(variant: Variant) -> str:
    """Which engine writes the answer."""
    return plain(variant.method) if is_alone(variant.method) else variant.policy.answer_by


def check_models(plan: Plan, chats: dict[Author, ChatFormat]) -> None:
    """Raises UsageError where base is to speculate with a model that has another vocabulary or too short a context."""
    if plan.decode is None:
        return
    plan.decode.check(chats, {spec.role: vocabulary_size(spec) for spec in plan.specs})
    draft = plan.decode.draft_model(plan.models["small"])
    for spec in plan.specs if draft else ():
        if spec.role == "base":
            asked = number_given(spec.args, "--context-length")
            plan.decode.check_contexts(asked or _context_of(spec), _context_of(replace(spec, model=draft)))


def check_sizes(specs: Sequence[EngineSpec]) -> None:
    """Raises UsageError where a model is for a CPU and nothing here tells that it is small enough."""
    for spec in specs:
        found = shape(spec.model)
        size = found.weights_gb() if isinstance(found, Shape) else files_gb(spec.model)
        if spec.on_cpu and (size is None or size > CPU_GB):
            words = found if size is None else f"{spec.model} has {size:.0f} GB of weights"
            raise UsageError(
                f"{spec.role}: whether it suits a CPU is not known: {words}; fetch it (hf download MODEL config.json) first, "
                "or give --base-url and --small-url of running servers"
            )


def configured(specs: Sequence[EngineSpec]) -> dict[Author, Room]:
    """What each engine will hold, from its model's config.json and its arguments; nothing where that is not to be had."""
    found: dict[Author, Room] = {}
    for spec in specs:
        rooms = []
        asked = number_given(spec.args, "--context-length")
        if tokens := asked or _context_of(spec):
            rooms.append(_context_room(spec.role, tokens, asked=bool(asked)))
        if tokens := number_given(spec.args, "--max-total-tokens"):
            rooms.append(_cache_room(spec.role, tokens))
        if rooms:
            found[spec.role] = min(rooms, key=lambda room: room.tokens)
    return found


def served(infos: dict[Author, dict[str, Any]]) -> dict[Author, Room]:
    """What running engines hold by their own /server_info; nothing of one that does not say, as behind a router."""
    rooms = {role: room_of(role, info) for role, info in infos.items()}
    return {role: room for role, room in rooms.items() if room is not None}


def room_of(role: Author, info: dict[str, Any]) -> Room | None:
    """The room by a server's own /server_info: the smaller one of the model's context and the cache."""
    longest, cache = info.get("max_req_input_len"), info.get("max_total_num_tokens")
    if not isinstance(longest, int):
        return None
    tokens = longest + MAX_REQ_INPUT_LEN_IS_LESS
    if isinstance(cache, int) and cache <= tokens:
        return _cache_room(role, cache)
    return _context_room(role, tokens, asked=bool(info.get("context_length")))


def _context_room(role: Author, tokens: int, *, asked: bool) -> Room:
    remedy = f"a larger --context-length of {role}" if asked else f"a {role} model with a longer context"
    return Room(tokens=tokens, remedy=remedy)


def _cache_room(role: Author, tokens: int) -> Room:
    return Room(tokens=tokens, remedy=f"a larger cache for {role} (max_total_tokens of the pair, --max-total-tokens)")


def rest_of(vocabulary: Vocabulary, texts: Texts, variant: Variant, role: Author) -> int:
    """The most tokens that a request needs beyond prompt and budget: the judge's turn, or closing the thought and the answer."""
    policy = variant.policy
    turns = [""] if is_alone(variant.method) else texts.turns(role)
    needed = [len(vocabulary.ids(turn)) + INPUT_SPARE for turn in turns]
    if _answers(variant) == role:
        closings = [f"\n{texts.think_end}{BLANK_LINE}"]
        if policy.on_budget == "answer":
            closings.append(BLANK_LINE + texts.close)
        closing = max(len(vocabulary.ids(text)) for text in closings)
        needed.append(closing + max(policy.answer_tokens + TOTAL_SPARE, INPUT_SPARE))
    return max(needed)


def _context_of(spec: EngineSpec) -> int | None:
    """The context of a model that is here already, by its configuration and as SGLang reads it (`get_context_length`)."""

    def read(config: Any) -> int | None:
        scaling = getattr(config, "rope_scaling", None) or {}
        scaled = "original_max_position_embeddings" not in scaling and scaling.get("rope_type") != "llama3"
        tokens = next((value for key in CONTEXT_KEYS if (value := getattr(config, key, None)) is not None), None)
        return int((scaling.get("factor", 1) if scaled else 1) * tokens) if tokens else None

    return _told(spec, read)


def vocabulary_size(spec: EngineSpec) -> int | None:
    """How many entries the model's output has, by its configuration; None where that is not here."""
    return _told(spec, lambda config: getattr(config, "vocab_size", None))


def _told(spec: EngineSpec, read: Callable[[Any], Any]) -> int | None:
    """What is read of the configuration of a model that is here already; None where there is none, or none that is known.

    Raises UsageError, naming the file, where it cannot be read: SGLang reads it with the same library.
    """
    from transformers import AutoConfig

    file = config_file(spec.model)
    if file is None:
        return None
    trust = "--trust-remote-code" in spec.args
    try:
        config = AutoConfig.from_pretrained(spec.model, local_files_only=True, trust_remote_code=trust)
        found = read(config.get_text_config())
    except Exception as error:  # a configuration may break the library in any way
        if isinstance(error, ValueError) and UNKNOWN_KIND in str(error):
            return None  # SGLang knows more of them
        raise UsageError(f"{file}: cannot be used: {one_line(error)}") from None
    return found if isinstance(found, int) else None
