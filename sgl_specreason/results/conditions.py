"""Owns what stands under a table of runs: what its columns mean, and what no number may be without. Knows no columns' cells."""

from collections.abc import Iterator, Sequence

from sgl_specreason.results import labels, stats
from sgl_specreason.results.estimates import difference, estimate
from sgl_specreason.results.schema import Memory, ReplaySummary, Summary
from sgl_specreason.results.summary import AgainstBase, Run
from sgl_specreason.words import counted

UNKNOWN = "unknown"
OF_COLUMNS = "[ ]: 95 % intervals, by problem. vs base: points, paired by problem. by small: % of the steps."
OF_TRUNCATED = "truncated: % of the trajectories, which are graded as they are."
OF_ALL_COLUMNS = (
    "Accuracy: mean over problems, with its 95 % interval by problem. Tokens are per trajectory; small's include "
    "the discarded ones."
)
TOO_FEW = (
    f"Fewer than {stats.FEW} problems are too few to say anything: differences, speed-ups and p are left out, and one problem "
    "has no interval."
)


def notes(runs: Sequence[Run], names: Sequence[str], beside: Sequence[AgainstBase | None], *, wide: bool) -> list[str]:
    """The lines under the table of these runs, which have these names in it and are paired with base so."""
    summaries = [run.summary for run in runs]
    first, varied = summaries[0], frozenset[str]().union(*(run.varied for run in runs))
    lines = _of_replay(first) if isinstance(first, ReplaySummary) else [OF_ALL_COLUMNS if wide else OF_COLUMNS]
    lines += [OF_TRUNCATED] if not wide and any(summary.truncated_share for summary in summaries) else []
    lines += _conditions(first)
    if shared := labels.common(runs):
        lines.append(f"Not the preset's: {labels.in_words(shared)}.")
    lines += [*_remarks(names, summaries), *_samples(names, summaries), *_sign_tests(names, beside)]
    few = any(pairing and pairing.speed_up.too_few for pairing in beside)
    lines += [TOO_FEW] if few or any(0 < summary.n < stats.FEW for summary in summaries) else []
    return lines + [f"Differs: {words}" for words in labels.differences(runs, varied)]


def _conditions(first: Summary) -> list[str]:
    told = first.conditions
    return [
        f"{first.bench}, pair {first.pair}, preset {first.preset}: {counted(first.n, 'problem')} x "
        f"{counted(first.samples, 'sample')}, concurrency {first.concurrency}, budget {first.budget_tokens} tokens.",
        f"Models: base {told.models.base}, small {told.models.small}. GPU: {told.gpu}. "
        f"sglang {told.versions.get('sglang', UNKNOWN)}."
        + "".join(f" {counted(count, 'replica')} of {role}." for role, count in (told.replicas or {}).items()),
        f"Rows sha256 {told.dataset_sha256[:12]}, judge prompt sha256 {told.prompts.get('judge', UNKNOWN)[:12]}.",
    ]


def _remarks(names: Sequence[str], summaries: Sequence[Summary]) -> list[str]:
    """What is out of the ordinary."""
    of = list(zip(names, summaries, strict=True))
    lines = [
        f"{name}: {summary.loops} of {counted(summary.trajectories, 'thought')} ended for going round in circles."
        for name, summary in of
        if summary.loops
    ]
    lines += [
        f"{name}: at most {counted(summary.most_at_once, 'trajectory', 'trajectories')} ran side by side: its numbers are not "
        f"those of concurrency {summary.concurrency}."
        for name, summary in of
        if summary.most_at_once is not None and summary.most_at_once < summary.concurrency
    ]
    lines += [
        f"{name}: base's decode steps gave {summary.accept_length_mean:.2f} tokens each (token-level speculation)."
        for name, summary in of
        if summary.accept_length_mean
    ]
    lines += [
        f"{name}: requests were tried again {counted(summary.retries, 'time')}; its seconds hold these waits."
        for name, summary in of
        if summary.retries
    ]
    lines += [f"{name}: {words}" for name, summary in of for words in _audits(summary)]
    return lines + [_warning(name, s) for name, s in of if s.judged_steps and s.label_mass_mean < 0.5]


def _audits(summary: Summary) -> Iterator[str]:
    """How far the judge is of a gate's mind, where one decided in its place."""
    for how, audit in summary.audits.items():
        words = f"{counted(audit.unasked, 'draft')} {how} unasked"
        if audit.audited:
            share = estimate(audit.disagreement, audit.disagreement_ci95, ".1f", 100)
            other = "refused" if how == "kept" else "kept"
            yield f"{words}; of {audit.audited} judged for the record the judge would have {other} {share} %."
        else:
            yield f"{words}; none was judged for the record."


def _warning(name: str, summary: Summary) -> str:
    binary = summary.policy.get("judge") == "binary"
    asked, template = ("yes or no", "judge_binary") if binary else ("digits", "judge")
    return (
        f"Warning: {name}: the judge put only {100 * summary.label_mass_mean:.0f} % of its probability on {asked}; "
        f"its template (prompts/{template}.txt, {template}_answer.txt) is not understood."
    )


def _of_replay(summary: ReplaySummary) -> list[str]:
    trace, memory = summary.trace, _held(summary.memory or Memory())
    lines = [
        f"Trace: {trace.steps} steps of {trace.step_tokens_median:g} tokens (median; {trace.step_tokens_max} at most), "
        f"thoughts of {trace.thinking_tokens_mean:.0f} (mean; {trace.thinking_tokens_max} at most), prompts of "
        f"{trace.prompt_tokens_mean:.0f}, answers of {trace.answer_tokens_mean:.0f}.",
        "Lengths and verdicts are the trace's; base and small alone write a thought of the same steps. Tokens are per "
        "trajectory, small's include the discarded ones; tokens/s counts kept thinking and answer tokens.",
    ]
    return [*lines, f"Memory: {memory}."] if memory else lines


def _held(memory: Memory) -> str:
    """What the engines held in memory; "" where nothing is known."""
    parts = []
    for role, own in (("base", memory.base), ("small", memory.small)):
        said = [f"{own.weights_gb:.2f} GB weights"] if own.weights_gb is not None else []
        said += [f"{own.cache_gb:.2f} GB cache"] if own.cache_gb is not None else []
        said += [f"room for {own.cache_tokens} tokens"] if own.cache_tokens is not None else []
        said += [f"{own.resident_gb:.2f} GB resident"] if own.resident_gb is not None else []
        if said:
            parts.append(f"{role} {', '.join(said)}")
    if memory.gpu_used_gb:
        parts.append(f"in use on the GPUs {', '.join(f'{used:.1f} GB' for used in memory.gpu_used_gb)}")
    return "; ".join(parts)


def _samples(names: Sequence[str], summaries: Sequence[Summary]) -> list[str]:
    """pass@k and maj@k, where there are several samples a problem."""
    lines = []
    for name, summary in zip(names, summaries, strict=True):
        kinds = ("pass", summary.pass_at_k, summary.pass_at_k_ci95), ("maj", summary.maj_at_k, summary.maj_at_k_ci95)
        words = [
            f"{kind}@{k} {estimate(value, bounds[k], '.1f', 100)} %"
            for kind, values, bounds in kinds
            for k, value in values.items()
        ]
        if words:
            lines.append(f"{name}: {', '.join(words)}.")
    return lines


def _sign_tests(names: Sequence[str], beside: Sequence[AgainstBase | None]) -> list[str]:
    """Where few problems tell two methods apart, the interval is rough: the exact test stands beside it."""
    return [
        f"{name} vs base: {difference(paired)}, better on {paired.better}, worse on {paired.worse} of {paired.n}, "
        f"sign test p = {paired.sign_p:.2g}."
        for name, pairing in zip(names, beside, strict=False)
        if pairing is not None and (paired := pairing.accuracy) and not paired.too_few
    ]
