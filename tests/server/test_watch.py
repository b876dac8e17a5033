"""Whether the engines answer, and for how long new questions wait for one that does not."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from fake_engine import FakeEngine
from served import until

from sgl_specreason.engines.keeper import Engine
from sgl_specreason.engines.servers import takes_requests
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


@pytest.mark.parametrize(
    ("ready", "model", "takes"), [(200, 404, True), (503, 200, False), (404, 200, True), (404, 404, False)]
)
def test_an_engine_is_asked_what_costs_it_nothing(ready: int, model: int, takes: bool) -> None:
    """Whether it is ready; where there is no such route, as behind a router, whether it answers. Once a second the question for
    its model filled its log with warnings, which then were all that was shown of an engine that had died."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(ready if self.path == "/ready" else model)
            self.end_headers()
            self.wfile.write(b'{"model_path": "m"}')

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        engine = Engine(role="base", url=f"http://127.0.0.1:{server.server_address[1]}", model="m")
        assert takes_requests(engine) is takes
        server.shutdown()
        thread.join()
    assert asked == ["/ready"] + ["/get_model_info"] * (ready == 404)
    assert takes_requests(engine) is False
