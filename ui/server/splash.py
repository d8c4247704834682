"""A splash page that is served while the app starts.

Importing Gradio takes seconds. Meanwhile every request gets 503 and this page, which polls and
reloads as soon as the app answers; `/health` gets 200, since the process is alive.
"""

import os
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

_PAGE = (Path(__file__).resolve().parents[2] / "assets" / "splash.html").read_bytes()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(b'{"status": "starting"}', 200, "application/json")
        else:
            self._answer(_PAGE)

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_POST(self) -> None:
        self._answer(b"")

    def _answer(self, body: bytes, status: int = 503, kind: str = "text/html") -> None:
        self.send_response(status)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the library's name
        """Log nothing: the log belongs to the app."""


class SplashPage:
    """Serves the splash page on Gradio's host and port; does nothing if those are taken."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        host = environment.get("GRADIO_SERVER_NAME") or "127.0.0.1"
        self._server: ThreadingHTTPServer | None = None
        try:
            port = int(environment.get("GRADIO_SERVER_PORT") or 7860)
            self._server = ThreadingHTTPServer((host, port), _Handler)
        except (OSError, ValueError, OverflowError):
            return  # Gradio takes another port, or reports the error
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        """Free the address for the app."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
