"""A splash page that is served while the app starts.

Importing Gradio takes seconds. Meanwhile every request gets 503 and this page, which polls and
reloads as soon as the app answers; `/health` gets 200, since the process is alive.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

_PAGE = """<!doctype html>
<html lang="zh">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>CGC-LoRA</title>
<style>
body { margin: 0; min-height: 100vh; display: grid; place-content: center; text-align: center;
  font: 16px/1.6 system-ui, sans-serif; color: light-dark(#1f2937, #e5e7eb);
  background: light-dark(#ffffff, #0b0f19); }
h1 { margin: 0; font-size: 28px; font-weight: 650; }
p { margin: 8px 0 0; color: light-dark(#4b5563, #9ca3af); }
</style>
</head>
<body>
<main role="status">
<h1>CGC-LoRA</h1>
<p>正在启动，几秒钟后自动打开。</p>
<p lang="en">Starting; the page opens by itself in a few seconds.</p>
</main>
<script>
const poll = () => fetch(location.href, { cache: "no-store" })
  .then((reply) => reply.status === 503 ? setTimeout(poll, 300) : location.reload())
  .catch(() => setTimeout(poll, 300));
setTimeout(poll, 300);
</script>
</body>
</html>
"""


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/health":
            self._answer(b'{"status": "starting"}', 200, "application/json")
        else:
            self._answer(_PAGE.encode())

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
    """Serves the splash page on the app's address; does nothing if that is taken.

    Args:
        environment: Holds Gradio's variables of host and port.
    """

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
