"""Whether the engines answer, and for how long new questions wait for one that does not."""

import time
from typing import Any

from fake_engine import FakeEngine
from served import until

from sgl_specreason.engines.keeper import Engine
from sgl_specreason.server.watch import Watch


def test_new_questions_wait_for_an_engine_as_long_as_running_ones_do(fake_engine: Any) -> None:
    """There were two clocks: with `--retry-for 5` every new question still waited for an engine that was away for 20 s."""
    engine: FakeEngine = fake_engine(lambda prompt, payload: "")
    watch = Watch({"base": Engine(role="base", url=engine.url, model="m")}, patience_s=1.5)
    try:
        time.sleep(1.2)
        assert (watch.ready, watch.is_up("base"), watch.is_away) == (True, True, False)
        engine.close()
        assert until(lambda: not watch.ready, 10)
        begin = time.monotonic()
        assert not watch.is_away
        assert until(lambda: watch.is_away, 10)
        assert time.monotonic() - begin > 1.0
    finally:
        watch.close()
