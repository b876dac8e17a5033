"""Owns one evaluation run: its folders, what is checked before anything starts, and its stages one after the other.

Knows nothing of command-line options, of how engines come up (`serving.py`), and of what is done on them (`session.py`).
Whatever it prints goes to `say`.
"""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from sgl_specreason.engines import servers
from sgl_specreason.errors import EngineGone, Interrupted, SpecReasonError, WriteError
from sgl_specreason.plan import limits
from sgl_specreason.plan.plan import Plan, Variant
from sgl_specreason.results.folder import RunFolder, held
from sgl_specreason.results.origin import Origin
from sgl_specreason.results.summaries import written
from sgl_specreason.results.summary import Run
from sgl_specreason.run import serving
from sgl_specreason.run.folders import folders_to_go_on_with, new_folders, settled
from sgl_specreason.run.interruption import Interruption
from sgl_specreason.run.serving import Access, Engines, Starts
from sgl_specreason.run.session import Say, Session
from sgl_specreason.text.chat import ChatFormat, load_chats
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint

Chats = dict[Author, ChatFormat]


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
    checked = partial(_checked, plan, attached, kind)
    if resume is None:
        chats: Chats | None = checked()  # before there is a folder
        top, folders = new_folders(plan, out, begun)
    else:
        chats, top, folders = None, resume, folders_to_go_on_with(plan, resume, begun)
    if plan.why:
        say(plan.why)
    starts = Starts(plan=plan, access=access, logs=top / "logs", say=say)
    with held(top), _naming_the_folder(top, interruption), _summarised(top), ExitStack() as whole:
        runs = {variant: RunFolder.found(path) for variant, path in folders.items()}
        stages = _unfinished(plan, runs)
        if not stages:
            return top, written(top, {run.path: run.outcomes for run in runs.values()})
        chats = chats or checked()
        begin = partial(kind, chats=chats, say=say, keep_cache=access.keeps_cache)
        importing = _importing()
        engines = attached or whole.enter_context(starts.for_the_run())
        for speculating, variants in stages.items():
            with starts.for_a_stage(engines, speculating=speculating) as base:
                importing.join()  # two threads that import SGLang at once may deadlock
                with _connected(plan, engines | base, chats, access, kind) as endpoints:
                    if not attached:
                        _check_started(plan, chats, endpoints, kind, speculating=speculating)
                    session = begin(plan=plan, variants=variants, endpoints=endpoints, rates=rates)
                    if plan.concurrency == "auto":
                        session = session.with_measured_concurrency()
                        plan, rates = session.plan, session.rates
                    session.run(runs, interruption)
        return top, written(top, {run.path: run.outcomes for run in runs.values()})


def _checked(plan: Plan, attached: Engines, kind: type[Session]) -> Chats:
    """The models' chat formats, once the plan is known to fit them. Raises UsageError."""
    chats = load_chats(plan.tokenizer_places, plan.think_tags, trust_remote_code=plan.trust_remote_code, day=plan.day)
    _check(plan, chats, attached, kind)
    return chats


def _unfinished(plan: Plan, runs: dict[Variant, RunFolder]) -> dict[bool, tuple[Variant, ...]]:
    """The plan's stages without those of which nothing is missing."""
    missing = {variant for variant, run in runs.items() if len(run.done) != plan.expected}
    return {key: variants for key, variants in plan.stages.items() if not missing.isdisjoint(variants)}


def _check(plan: Plan, chats: Chats, attached: Engines, kind: type[Session]) -> None:
    """Raises UsageError where the plan does not fit its models, or the servers that run already."""
    if not attached:
        if plan.decode:
            plan.decode.check(chats, {spec.role: limits.vocabulary_size(spec) for spec in plan.specs})
        kind.check(plan, chats, limits.configured(plan.specs))
        limits.check_sizes(plan.specs)
        return
    infos = {role: servers.info(engine) for role, engine in attached.items()}
    serving.check_served(infos["base"], speculating=True in plan.stages)
    kind.check(plan, chats, limits.served(infos))


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


def _importing() -> threading.Thread:
    """SGLang takes seconds to import: while the engines start, and not when they are up."""
    thread = threading.Thread(target=import_module, args=("sgl_specreason.method.program",), daemon=True)
    thread.start()
    return thread


@contextmanager
def _naming_the_folder(top: Path, interruption: Interruption) -> Iterator[None]:
    """Whatever ends a run early has its folder."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(top, interruption.code) from None
    except (EngineGone, WriteError) as error:
        error.folder = top
        raise


@contextmanager
def _connected(
    plan: Plan, engines: Engines, chats: Chats, access: Access, kind: type[Session]
) -> Iterator[dict[Author, "Endpoint"]]:
    """Endpoints over the running engines; their requests end with this."""
    endpoint = kind.endpoint_class()
    with ExitStack() as stack:
        endpoints = {}
        for role, engine in engines.items():
            endpoints[role] = endpoint(
                engine.url,
                role=role,
                tokenizer=chats[role].tokenizer,
                vocabulary=chats[role].vocabulary,
                api_key=engine.api_key,
                timeout_s=access.request_timeout_s,
                health=engine.health,
                workers=engine.workers,
                connections=2 * plan.workers * max(variant.policy.drafts for variant in plan.variants),
            )
            stack.callback(endpoints[role].stop)
        yield endpoints
