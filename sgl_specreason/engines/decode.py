"""Owns token-level speculation of base (SpecReason+Decode, arXiv 2504.07891, section 4.2): how its server is asked for it.

Knows no HTTP. Flags were read in SGLang 0.5.23 and 0.5.16 (server_args.py), the rule of one vocabulary in 0.5.23's
speculative/standalone_worker_v2.py.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from sgl_specreason.engines.replicas import SIZES
from sgl_specreason.engines.servers import EngineSpec, number_given
from sgl_specreason.errors import UsageError
from sgl_specreason.text.chat import ChatFormat
from sgl_specreason.text.steps import Author

Algorithm = Literal["standalone", "ngram", "eagle3"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
EXCLUDED: dict[str, tuple[Algorithm, ...]] = {
    "--enable-dp-attention": ("standalone", "ngram"),
    "--enable-lora": ("standalone",),
    "--lora-paths": ("standalone",),
    "--enable-lmcache": ALGORITHMS,
}
"""Arguments of base with which SGLang 0.5.23 refuses to speculate (arg_groups/speculative_hook.py, lora_hook.py and
kv_cache_hook.py); docs/pairs.md has the whole table."""
MOST_RUNNING = 48
"""So many requests SGLang runs at once where it speculates and nobody says more (arg_groups/speculative_hook.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decode:
    """How base guesses its own next tokens: `tokens` at a time, by the small model, by n-grams of its context, or by a head.

    `model` is the head of eagle3, or another draft model than small for standalone. Raises UsageError for what cannot be.
    """

    algorithm: Algorithm = "standalone"
    tokens: int = 5
    model: str | None = None

    def __post_init__(self) -> None:
        if self.algorithm not in ALGORITHMS:
            raise UsageError(f"--decode {self.algorithm}: must be one of {', '.join(ALGORITHMS)}")
        if not 1 <= self.tokens <= 64:
            raise UsageError(f"--decode-tokens {self.tokens}: must be from 1 to 64")
        if self.algorithm == "eagle3" and not self.model:
            raise UsageError("--decode eagle3 needs a head trained for this base: --decode-model MODEL")
        if self.algorithm == "ngram" and self.model:
            raise UsageError("--decode ngram takes no --decode-model: it guesses from the context")

    def draft_model(self, small_model: str) -> str:
        """What base loads to guess its tokens; "" where that is no model."""
        return "" if self.algorithm == "ngram" else self.model or small_model

    def served(self, base: EngineSpec, small_model: str) -> EngineSpec:
        """`base` with speculation: chains of `tokens` guesses, verified together with the token before them."""
        args = ["--speculative-algorithm", self.algorithm.upper()]
        if model := self.draft_model(small_model):
            args += ["--speculative-draft-model-path", model]
            args += ["--speculative-num-steps", str(self.tokens), "--speculative-eagle-topk", "1"]
        args += ["--speculative-num-draft-tokens", str(self.tokens + 1)]
        return replace(base, args=(*base.args, *args))

    def check(self, chats: dict[Author, ChatFormat], sizes: dict[Author, int | None]) -> None:
        """Raises UsageError where SGLang would refuse small as a draft model: it must have base's vocabulary.

        `sizes` are the vocabulary sizes of the models' configurations, None where these are not to be had.
        """
        self.check_sizes(sizes)
        digests = {role: chat.vocabulary.digest for role, chat in chats.items()}
        if self.drafts_with_small and digests["base"] != digests["small"]:
            raise UsageError(_refusal(""))

    def check_sizes(self, sizes: dict[Author, int | None]) -> None:
        """The same where no tokenizer is needed to tell."""
        if self.drafts_with_small and None not in sizes.values() and len(set(sizes.values())) > 1:
            raise UsageError(_refusal(f" ({sizes['base']} and {sizes['small']} entries)"))

    def check_args(self, args: Sequence[str]) -> None:
        """Raises UsageError for arguments of base with which SGLang does not speculate so."""
        given = [name for name, algorithms in EXCLUDED.items() if self.algorithm in algorithms and _has(args, name)]
        if (number_given(args, *SIZES["pp"]) or 1) > 1:
            given.append(SIZES["pp"][0])
        if "flex_attention" in args:
            given.append("--attention-backend flex_attention")
        if given:
            raise UsageError(
                f"--decode {self.algorithm}: SGLang does not speculate with {given[0]}, which base's args have"
            )

    def check_contexts(self, base: int | None, draft: int | None) -> None:
        """Raises UsageError where what guesses holds less than base: SGLang refuses it, since both count positions alike."""
        if base and draft and draft < base:
            raise UsageError(
                f"--decode {self.algorithm}: its model holds {draft} tokens and base {base}, which SGLang refuses; "
                f'give base that much: args.base = ["--context-length", "{draft}"] in a pair file of your own'
            )

    @property
    def drafts_with_small(self) -> bool:
        """Whether it is small that guesses."""
        return self.algorithm == "standalone" and not self.model


def _has(args: Sequence[str], name: str) -> bool:
    return any(word == name or word.startswith(f"{name}=") for word in args)


def _refusal(entries: str) -> str:
    return (
        f"--decode standalone: base and small have different vocabularies{entries}, which SGLang refuses; "
        "use --decode ngram, or --decode eagle3 with a head for this base"
    )
