"""Owns bringing the servers of a run up: in which order, or side by side, and what becomes of the others when one fails.

Knows nothing of what is asked of them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path

from sgl_specreason.engines import servers
from sgl_specreason.engines.keeper import MOST_RESTARTS, START_TIMEOUT_S, Engine, Keeper, Progress, Startable
from sgl_specreason.engines.replicas import RouterSpec, copies
from sgl_specreason.engines.servers import EngineSpec
from sgl_specreason.engines.transport import Health
from sgl_specreason.errors import EngineError
from sgl_specreason.text.steps import Author

SEEN_S = 60.0


@contextmanager
def started(
    specs: Sequence[EngineSpec],
    logs: Path,
    *,
    say: Progress,
    timeout_s: float = START_TIMEOUT_S,
    restarts: int = MOST_RESTARTS,
) -> Iterator[dict[Author, Engine]]:
    """Starts the engines, and a router before each that has several replicas.

    On GPUs strictly one after the other, since each takes a share of the memory that is free then. On a CPU all at once: their
    caches are pinned in tokens. Logs go to `logs`/<role>.log, of replicas <role>-1.log and so on, of a router <role>-router.log.
    One that dies later is started again on its port, `restarts` times at most; what asks it meanwhile waits (its Health), or
    other replicas do its work. Ends all of them when left, also when this process is killed. Raises EngineError with the
    command and the last lines of its log if one dies before it is ready, or is not ready after `timeout_s`.
    """
    logs.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:

        def keeper(spec: Startable, name: str, replicas: tuple[Health, ...] = ()) -> Keeper:
            log = logs / f"{name}.log"
            kept = Keeper(spec=spec, log=log, say=say, timeout_s=timeout_s, restarts=restarts, replicas=replicas)
            stack.callback(kept.close)
            return kept

        keepers = [keeper(copy, copy.name) for spec in specs for copy in copies(spec)]
        engines = iter(_together(keepers) if all(spec.on_cpu for spec in specs) else [kept.start() for kept in keepers])
        yield {spec.role: _reached(spec, list(islice(engines, spec.replicas)), keeper) for spec in specs}


def _together(keepers: Sequence[Keeper]) -> list[Engine]:
    """Starts them side by side. The first one that fails, or Ctrl-C, ends all."""
    with ThreadPoolExecutor(len(keepers)) as pool:
        try:
            starts = [pool.submit(kept.start) for kept in keepers]
            for start in as_completed(starts):
                start.result()
            return [start.result() for start in starts]
        except BaseException:
            for kept in keepers:
                kept.close()  # or the pool would wait until the others are ready
            raise


def _reached(
    spec: EngineSpec, engines: list[Engine], keeper: Callable[[Startable, str, tuple[Health, ...]], Keeper]
) -> Engine:
    """What requests go to: the engine itself, or a router before several."""
    if len(engines) == 1:
        return engines[0]
    workers = tuple(engine.url for engine in engines)
    router = keeper(
        RouterSpec(role=spec.role, model=spec.model, workers=workers, api_key=spec.api_key),
        f"{spec.role}-router",
        tuple(engine.health for engine in engines),
    ).start()
    deadline = time.monotonic() + SEEN_S
    while servers.said(router.url, "/readiness").get("healthy_workers") != len(workers):  # it answers once it knows one
        if time.monotonic() > deadline:
            raise EngineError(f"the {router.role} router does not find its {len(workers)} replicas")
        time.sleep(0.1)
    return replace(router, workers=workers, replicas=len(workers))
