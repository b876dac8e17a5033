"""Owns the numbers of a server in Prometheus' form, in a registry of their own. Knows no HTTP."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from sgl_specreason.server.desk import Desk, Ticket
from sgl_specreason.server.events import Account
from sgl_specreason.server.talk import Talk
from sgl_specreason.server.watch import Watch
from sgl_specreason.text.steps import Author

SECONDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000)
SHARES = (0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0)
PREFIX = "specreason"


class Metrics:
    """What is counted; one line of words for each stands with it."""

    def __init__(self, desk: Desk, watch: Watch) -> None:
        self.registry = registry = CollectorRegistry()

        def counter(name: str, words: str, *labels: str) -> Counter:
            return Counter(name, words, labels, namespace=PREFIX, registry=registry)

        def histogram(name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(name, words, namespace=PREFIX, registry=registry, buckets=buckets)

        self.requests = counter(
            "requests", "Requests for a chat completion, by model and HTTP status", "model", "status"
        )
        self.cancelled = counter("cancelled", "Choices that were ended before their time, by why", "why")
        self._steps = counter("steps", "Steps that became part of a thought, by author", "by")
        self._drafts = counter("drafts", "Steps that small drafted, by what came of them", "verdict")
        self._tokens = counter("tokens", "Tokens, by engine and what became of them", "engine", "kind")
        self._engine_requests = counter("engine_requests", "Requests to the engines, by purpose", "engine", "purpose")
        self._retries = counter("engine_retries", "Requests to the engines that were sent again", "engine")
        self.first_text = histogram("first_text_seconds", "From a request to its first text", SECONDS)
        self.request_seconds = histogram("request_seconds", "From a request to the end of its reply", SECONDS)
        self._queue_seconds = histogram("queue_seconds", "Waiting for a place", SECONDS)
        self._label_mass = histogram("label_mass", "Probability that the judge put on its labels", SHARES)
        running = Gauge("requests_running", "Choices that are worked on", namespace=PREFIX, registry=registry)
        running.set_function(lambda: desk.running)
        queued = Gauge("requests_queued", "Choices that wait for a place", namespace=PREFIX, registry=registry)
        queued.set_function(lambda: desk.waiting)
        up = Gauge("engine_up", "Whether an engine answers", ["engine"], namespace=PREFIX, registry=registry)
        up.labels("base").set_function(lambda: watch.is_up("base"))
        up.labels("small").set_function(lambda: watch.is_up("small"))

    def text(self) -> bytes:
        """All of it as it is now."""
        return generate_latest(self.registry)

    def ended(self, talk: Talk, ticket: Ticket) -> None:
        """Counts what a talk has taken, however it ended."""
        t = talk.trajectory
        self._queue_seconds.observe(ticket.queued_s)
        if talk.account is not None:
            self._count(talk.account, talk.asked.question.roles[0])
        for call in t.calls:
            self._engine_requests.labels(call.account.engine, call.purpose).inc()
            self._retries.labels(call.account.engine).inc(call.account.retries or 0)
            self._tokens.labels(call.account.engine, "prompt").inc(call.account.prompt_tokens)
            self._tokens.labels(call.account.engine, "cached").inc(call.account.cached_tokens)
        for kept in t.kept:
            if kept.judgement is not None and (mass := kept.judgement.label_mass) is not None:
                self._label_mass.observe(mass)

    def _count(self, taken: Account, answerer: Author) -> None:
        self._steps.labels("small").inc(taken.steps_by_small)
        self._steps.labels("base").inc(taken.steps - taken.steps_by_small)
        self._drafts.labels("accepted").inc(taken.accepted)
        self._drafts.labels("rejected").inc(taken.drafts - taken.accepted)
        kept = {"small": taken.tokens_small_kept, "base": taken.thinking_tokens - taken.tokens_small_kept}
        for engine, written in (("small", taken.tokens_small), ("base", taken.tokens_base)):
            self._tokens.labels(engine, "kept").inc(kept[engine])
            self._tokens.labels(engine, "discarded").inc(written - kept[engine])
        self._tokens.labels(answerer, "answer").inc(taken.answer_tokens)
