"""The page that answers until the app's own does."""

import socket
import urllib.error
import urllib.request

import pytest

from ui.server.splash import SplashPage


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def ask(port: int, method: str) -> urllib.error.HTTPError:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/gradio_api/x?y=1", method=method)
    with pytest.raises(urllib.error.HTTPError) as refusal:
        urllib.request.urlopen(request, timeout=10)
    return refusal.value


def test_whoever_comes_too_early_is_told_to_try_again():
    port = free_port()
    splash = SplashPage({"GRADIO_SERVER_PORT": str(port)})
    for method in ("GET", "HEAD", "POST"):
        reply = ask(port, method)
        assert reply.code == 503
        assert reply.headers["Retry-After"] == "1"
        assert ("几秒钟后自动打开" in reply.read().decode()) == (method == "GET")
    splash.close()
    with socket.socket() as own:  # the place is free, as the app's server takes it
        own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        own.bind(("127.0.0.1", port))
    splash.close()  # once more does no harm


@pytest.mark.parametrize("port", ["words", "70000"])
def test_a_place_that_is_no_place_is_left_to_gradio(port):
    SplashPage({"GRADIO_SERVER_PORT": port}).close()


def test_a_place_that_is_taken_is_left_alone():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        SplashPage({"GRADIO_SERVER_PORT": str(other.getsockname()[1])}).close()
        with socket.create_connection(other.getsockname(), timeout=5):
            assert other.accept()
