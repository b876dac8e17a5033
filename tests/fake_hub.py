"""A local server that answers as the hub does for datasets: enough for `datasets.load_dataset` to read real files from it."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "a" * 40


class FakeHub:
    """`files` maps "org/name" to that set's files (path to content); sets in `gated` answer 403."""

    def __init__(self, files: dict[str, dict[str, bytes]], gated: tuple[str, ...] = ()) -> None:
        self.files, self.gated = files, gated
        self.asked: list[str] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: Any) -> None:
                pass

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length") or 0))
                status, headers, content = hub.respond(unquote(urlsplit(self.path).path), body)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_HEAD = do_POST = answer  # noqa: N815

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def environment(self, home: Path) -> dict[str, str]:
        """What makes the client libraries ask this server, with nothing cached."""
        return {
            "HF_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}",
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
        }

    def respond(self, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(path)
        for repo, files in self.files.items():
            if repo in path and repo in self.gated:
                return 403, {"X-Error-Code": "GatedRepo"}, b""
            if path.startswith(f"/datasets/{repo}/resolve/"):
                name = path.removeprefix(f"/datasets/{repo}/resolve/").split("/", 1)[1]
                if name not in files:
                    return 404, {"X-Error-Code": "EntryNotFound"}, b""
                tag = hashlib.sha1(files[name]).hexdigest()
                return 200, {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT}, files[name]
            if path.startswith(f"/api/datasets/{repo}/tree/"):
                return self._json([self._entry(name, content) for name, content in files.items()])
            if path.startswith(f"/api/datasets/{repo}/paths-info/"):
                wanted = unquote(body.decode())
                return self._json([self._entry(n, c) for n, c in files.items() if n in wanted])
            if path.startswith(f"/api/datasets/{repo}"):
                names = [{"rfilename": name} for name in files]
                return self._json({"id": repo, "sha": COMMIT, "siblings": names, "private": False, "gated": False})
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    @staticmethod
    def _entry(name: str, content: bytes) -> dict[str, Any]:
        return {"type": "file", "path": name, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    @staticmethod
    def _json(content: Any) -> tuple[int, dict[str, str], bytes]:
        return 200, {"content-type": "application/json"}, json.dumps(content).encode()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
