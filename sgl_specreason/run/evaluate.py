"""Owns one evaluation run: its folders, and the engines that each part of it needs, up one after the other.

Knows nothing of command-line options, and of what is done on the engines (`session.py`). Whatever it prints goes to `say`.
"""

import threading
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sgl_specreason.engines import replicas, servers
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.servers import ROLES
from sgl_specreason.engines.transport import Health
from sgl_specreason.errors import EngineGone, Interrupted, UsageError, WriteError
from sgl_specreason.plan import limits
from sgl_specreason.plan.plan import Plan
from sgl_specreason.results import records
from sgl_specreason.run.folders import folders_of, settled
from sgl_specreason.run.interruption import Interruption
from sgl_specreason.run.session import Say, Session
from sgl_specreason.text.chat import ChatFormat, load_chats
from sgl_specreason.text.steps import Author

if TYPE_CHECKING:
    from sgl_specreason.engines.endpoint import Endpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How the engines are reached: `urls` of running servers in the order of ROLES, or None where they are to be started.

    `api_key` is theirs, or is for the ones that are started. A request has `request_timeout_s` seconds; a running server that
    does not answer is waited for during `patience_s`.
    """

    urls: tuple[str, str] | None
    api_key: str | None
    request_timeout_s: float
    patience_s: float

    def __post_init__(self) -> None:
        if self.api_key and not (self.api_key.isascii() and self.api_key.isprintable()):
            raise UsageError("--api-key: has characters that no HTTP header can hold: printable ASCII is wanted")


def run(
    plan: Plan,
    *,
    out: Path,
    resume: Path | None,
    access: Access,
    interruption: Interruption,
    say: Say,
    kind: type[Session] = Session,
) -> Path:
    """Runs every variant of the plan, in sessions of this kind. Returns the folder with everything.

    Raises UsageError before anything is started, EngineError where an engine fails for good, WriteError on a full disk,
    Interrupted on Ctrl-C and SIGTERM.
    """
    attached = _attached(access) if access.urls else None
    if attached:
        plan = replace(
            plan,
            models={role: engine.model for role, engine in attached.items()},
            replicas={role: engine.replicas for role, engine in attached.items()},
        )
        for words in filter(None, map(replicas.unknown, attached.values())):
            say(words)
    chats = load_chats(plan.models, plan.think_tags, trust_remote_code=plan.trust_remote_code)
    if plan.decode and not attached:
        plan.decode.check(chats, {spec.role: limits.vocabulary_size(spec) for spec in plan.specs})
    if attached:
        infos = {role: servers.info(engine) for role, engine in attached.items()}
        _check_served(infos["base"], speculating=True in plan.stages)
    kind.check(plan, chats, limits.served(infos) if attached else limits.configured(plan.specs))
    plan, rates = settled(plan, resume)
    top, folders = folders_of(plan, out, resume)
    if plan.why:
        say(plan.why)
    with ExitStack() as stack:
        stack.enter_context(records.held(top))
        try:
            # SGLang takes seconds to import: meanwhile, and not after the engines are up
            importing = threading.Thread(target=import_module, args=("sgl_specreason.method.program",), daemon=True)
            importing.start()
            engines = attached or stack.enter_context(_small(plan, access, top / "logs", say))
            for speculating, variants in plan.stages.items():
                if all(_is_finished(folders[variant], plan) for variant in variants):
                    continue
                with ExitStack() as stage:
                    running = engines
                    if not attached:
                        running = engines | stage.enter_context(_base(plan, access, top / "logs", say, speculating))
                    importing.join()  # two threads that import SGLang at once may deadlock
                    endpoints = _endpoints(plan, running, chats, access.request_timeout_s, kind)
                    for endpoint in endpoints.values():
                        stage.callback(endpoint.stop)
                    if not attached:
                        infos = {role: endpoint.server_info for role, endpoint in endpoints.items()}
                        _check_served(infos["base"], speculating=speculating)
                        kind.check(plan, chats, limits.served(infos))
                    session = kind(plan=plan, variants=variants, chats=chats, endpoints=endpoints, say=say, rates=rates)
                    if plan.concurrency == "auto":
                        session = session.with_measured_concurrency()
                        plan, rates = session.plan, session.rates
                    session.run(top, folders, interruption, resume=resume is not None)
        except KeyboardInterrupt:
            raise Interrupted(top, interruption.code) from None
        except (EngineGone, WriteError) as error:
            words = f"{error}; finished trajectories are in {top}; go on with --resume {top}"
            raise type(error)(words) from None
    return top


def _attached(access: Access) -> dict[Author, Engine]:
    assert access.urls is not None
    return {
        role: replicas.attached(role, url, access.api_key, Health(patience_s=access.patience_s))
        for role, url in zip(ROLES, access.urls, strict=True)
    }


def _small(plan: Plan, access: Access, logs: Path, say: Say) -> AbstractContextManager[dict[Author, Engine]]:
    """Small's engine, for the whole run. It starts first: what it leaves free, base shares out."""
    return replicas.started([_spec(plan, access, "small")], logs, say=say)


def _base(
    plan: Plan, access: Access, logs: Path, say: Say, speculating: bool
) -> AbstractContextManager[dict[Author, Engine]]:
    """Base's engine, with token-level speculation or without: each needs a start of its own."""
    spec = _spec(plan, access, "base")
    if speculating and plan.decode:
        return replicas.started([plan.decode.served(spec, plan.models["small"])], logs / "decode", say=say)
    return replicas.started([spec], logs, say=say)


def _spec(plan: Plan, access: Access, role: Author) -> servers.EngineSpec:
    spec = next(spec for spec in plan.specs if spec.role == role)
    return replace(spec, api_key=access.api_key or spec.api_key)


def _is_finished(folder: Path, plan: Plan) -> bool:
    """Whether nothing of a run that was begun before is missing."""
    return sum("error" not in record for record in records.trajectories(folder)) == plan.expected


def _check_served(base: dict[str, Any], *, speculating: bool) -> None:
    """Raises UsageError where base, by its /server_info, speculates and its methods do not, or the other way round."""
    algorithm = base.get("speculative_algorithm")
    if algorithm and not speculating:
        raise UsageError(
            f"base is served with {algorithm} speculation: its methods are base+decode and specreason+decode"
        )
    if speculating and base and not algorithm:
        raise UsageError("base is served without token-level speculation: methods with +decode need it")


def _endpoints(
    plan: Plan,
    running: dict[Author, Engine],
    chats: dict[Author, ChatFormat],
    timeout_s: float,
    kind: type[Session],
) -> dict[Author, "Endpoint"]:
    """Endpoints over the running engines."""
    endpoint = kind.endpoint_class()
    return {
        role: endpoint(
            engine.url,
            role=role,
            tokenizer=chats[role].tokenizer,
            api_key=engine.api_key,
            timeout_s=timeout_s,
            health=engine.health,
            workers=engine.workers,
            connections=2 * plan.workers * max(variant.policy.drafts for variant in plan.variants),
        )
        for role, engine in running.items()
    }
