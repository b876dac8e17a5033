"""Owns what the progress bar of a run says. Knows nothing of engines or folders."""

import time
from collections import Counter

from sgl_specreason.method.policy import METHODS
from sgl_specreason.plan.plan import Variant
from sgl_specreason.results.lines import Outcome


class Progress:
    """What the bar says while a run goes on: running counts of each variant's trajectories."""

    def __init__(self, done: dict[Variant, list[Outcome]]) -> None:
        self.begin, self.tokens, self.failed = time.monotonic(), 0, 0
        self.counts: dict[Variant, Counter[str]] = {variant: Counter() for variant in done}
        for variant, found in done.items():
            for outcome in found:
                self._count(variant, outcome)

    def add(self, variant: Variant, outcome: Outcome) -> None:
        self.tokens += outcome.thinking_tokens + outcome.answer_tokens
        self.failed += outcome.error is not None
        self._count(variant, outcome)

    def _count(self, variant: Variant, outcome: Outcome) -> None:
        if outcome.error is None:
            count = self.counts[variant]
            count.update(accepted=outcome.accepted, drafts=outcome.drafts)
            if outcome.correct is not None:
                count.update(graded=1, right=outcome.correct)

    def words(self) -> str:
        """Accuracy so far by method, acceptance, tokens a second; of many variants only the last two."""
        parts = []
        if len(self.counts) <= len(METHODS):
            for variant, count in self.counts.items():
                if count["graded"]:
                    parts.append(f"{variant.method} {100 * count['right'] / count['graded']:.0f} %")
        drafts = sum(count["drafts"] for count in self.counts.values())
        if drafts:
            parts.append(f"accepted {100 * sum(c['accepted'] for c in self.counts.values()) / drafts:.0f} %")
        parts.append(f"{self.tokens / max(time.monotonic() - self.begin, 1e-9):.0f} tok/s")
        return ", ".join(parts + [f"failed {self.failed}"] * bool(self.failed))
