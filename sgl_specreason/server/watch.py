"""Owns whether the two engines answer, asked again and again. Knows no questions."""

import threading
import time

from sgl_specreason.engines import servers
from sgl_specreason.engines.keeper import Engine
from sgl_specreason.text.steps import Author

EVERY_S = 1.0
PATIENCE_S = 30.0


class Watch:
    """Looks at each engine once a second, in a thread of its own. `ready` says whether all answer now.

    New questions do not wait for one that has been away for longer than `patience_s`.
    """

    def __init__(self, engines: dict[Author, Engine], patience_s: float | None = None) -> None:
        self._engines, self._patience_s = engines, PATIENCE_S if patience_s is None else patience_s
        self._down_since: dict[Author, float] = {}
        self._over = threading.Event()
        for role in engines:
            threading.Thread(target=self._look, args=(role,), daemon=True).start()

    @property
    def ready(self) -> bool:
        return not self._down_since

    def is_up(self, role: Author) -> bool:
        return role not in self._down_since

    @property
    def is_away(self) -> bool:
        """Whether one has been away for so long that new questions should not wait for it."""
        return any(time.monotonic() - since > self._patience_s for since in list(self._down_since.values()))

    @property
    def lost(self) -> str | None:
        """Why an engine of ours will not come back."""
        return next((lost for engine in self._engines.values() if engine.pid and (lost := engine.health.lost)), None)

    def close(self) -> None:
        self._over.set()

    def _look(self, role: Author) -> None:
        engine = self._engines[role]
        while not self._over.wait(EVERY_S):
            if servers.takes_requests(engine):
                self._down_since.pop(role, None)
            else:
                self._down_since.setdefault(role, time.monotonic())
