"""Owns one evaluation run: its folders, what is checked before anything starts, and its stages one after the other.

Knows nothing of command-line options, of how engines come up (`serving.py`), and of what is done on them (`session.py`).
Whatever it prints goes to `say`.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sgl_specreason.engines import servers
from sgl_specreason.errors import SpecReasonError
from sgl_specreason.plan import limits
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.results.folder import RunFolder, held
from sgl_specreason.results.origin import Origin
from sgl_specreason.results.summaries import written
from sgl_specreason.results.summary import Run
from sgl_specreason.run import clients, serving
from sgl_specreason.run.folders import folders_to_go_on_with, new_folders, settled
from sgl_specreason.run.interruption import Interruption, naming_the_folder
from sgl_specreason.run.serving import Access, Chats, Engines, Starts
from sgl_specreason.run.session import Say, Session
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint


def run(
    plan: Plan,
    *,
    out: Path,
    resume: Path | None,
    begun: Origin,
    access: Access,
    interruption: Interruption,
    say: Say,
    kind: type[Session] = Session,
) -> tuple[Path, list[Run]]:
    """Runs every variant of the plan, in sessions of this kind. Returns the folder with everything, and its runs.

    `begun` says in a new folder how it was begun. Records are read once, where there are any already, and the summaries are
    written at the end. Where nothing is missing no engine is started, and SGLang is not imported.

    Raises UsageError before anything is started, EngineError where an engine fails for good, WriteError on a full disk,
    Interrupted on Ctrl-C and SIGTERM. What ends a run early has its folder.
    """
    plan, attached = serving.attached(plan, access, say)
    plan, rates = settled(plan, resume)
    checks = partial(checked, plan, attached, say, kind)
    if resume is None:
        chats: Chats | None = checks()  # before there is a folder
        top, folders = new_folders(plan, out, begun)
    else:
        chats, top, folders = None, resume, folders_to_go_on_with(plan, resume, begun)
    starts = Starts(plan=plan, access=access, logs=top / "logs", say=say)
    with held(top), naming_the_folder(top, interruption), _summarised(top), ExitStack() as whole:
        runs = {variant: RunFolder.found(path) for variant, path in folders.items()}
        stages = _unfinished(plan, runs)
        if not stages:
            return top, written(top, {run.path: run.outcomes for run in runs.values()})
        chats = chats or checks()
        for words in filter(
            None,
            [
                plan.why,
                *limits.crowding(plan, limits.caches(plan.specs)),
                *limits.cut_short(plan),
                *limits.of_one_client(plan),
            ],
        ):
            say(words)
        begin = partial(kind, chats=chats, say=say, keep_cache=access.keeps_cache)
        importing = serving.importing()
        if plan.clients > 1:
            clients.importing()
        engines = attached or whole.enter_context(starts.for_the_run())
        for speculating, variants in stages.items():
            with starts.for_a_stage(engines, speculating=speculating) as base:
                importing.join()  # two threads that import SGLang at once may deadlock
                connections = 2 * plan.workers * max(variant.policy.drafts for variant in plan.variants)
                with serving.connected(engines | base, chats, access, kind.endpoint_class(), connections) as endpoints:
                    if not attached:
                        _check_started(plan, chats, endpoints, kind, speculating=speculating)
                    session = begin(plan=plan, variants=variants, endpoints=endpoints, rates=rates)
                    if plan.concurrency == "auto":
                        session = session.with_measured_concurrency()
                        plan, rates = session.plan, session.rates
                    with clients.sharing(session, engines | base, access, connections) as session:
                        session.run(runs, interruption)
        return top, written(top, {run.path: run.outcomes for run in runs.values()})


def _unfinished(plan: Plan, runs: dict[Variant, RunFolder]) -> dict[bool, tuple[Variant, ...]]:
    """The plan's stages without those of which nothing is missing."""
    missing = {variant for variant, run in runs.items() if len(run.done) != plan.expected}
    return {key: variants for key, variants in plan.stages.items() if not missing.isdisjoint(variants)}


def checked(plan: Plan, attached: Engines, say: Say, kind: type[Session] = Session) -> Chats:
    """The models' chat formats. Raises UsageError where the plan does not fit its models, or the servers that run already.

    What fits badly is said.
    """
    chats = serving.chats_of(plan)
    _check(plan, chats, attached, kind, say)
    return chats


def _check(plan: Plan, chats: Chats, attached: Engines, kind: type[Session], say: Say) -> None:
    if not attached:
        limits.check_models(plan, chats)
        kind.check(plan, chats, limits.configured(plan.specs))
        limits.check_sizes(plan.specs)
        return
    infos = {role: servers.info(engine) for role, engine in attached.items()}
    serving.check_served(infos["base"], speculating=True in plan.stages)
    kind.check(plan, chats, limits.served(infos))
    for words in limits.crowding(plan, limits.held(infos)):
        say(words)


def _check_started(
    plan: Plan, chats: Chats, endpoints: dict[Author, "Endpoint"], kind: type[Session], *, speculating: bool
) -> None:
    """The same of engines that were started here: what they hold in fact."""
    infos = {role: endpoint.server_info for role, endpoint in endpoints.items()}
    serving.check_served(infos["base"], speculating=speculating)
    kind.check(plan, chats, limits.served(infos))


@contextmanager
def _summarised(top: Path) -> Iterator[None]:
    """Writes the summaries of a run that ends early; where they cannot be, that must not hide why it ended."""
    try:
        yield
    except BaseException:
        with suppress(SpecReasonError):
            written(top)
        raise
