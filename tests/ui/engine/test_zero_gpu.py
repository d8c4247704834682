"""On ZeroGPU the engine's work is done in forks, and the answers are the same."""

import json
import os
import socket
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from cgclora.models.backbone import load_backbone
from tests.browser.app_server import ROOT
from tests.ui.engine.questions import replies
from ui.engine.engine import AppEngine
from ui.engine.models import Models
from ui.engine.zero_gpu import ZERO_GPU, on_gpu


def test_on_zero_gpu_every_answer_comes_from_a_fork_and_is_what_it_is_elsewhere(folders):
    adapters, backbone = folders
    here = AppEngine(
        adapters, Models(lambda _: load_backbone(backbone, device="cpu", dtype="bfloat16"))
    )
    here.start()
    assert here.wait(60)
    expected = replies(here)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    found = subprocess.run(
        [sys.executable, "-m", "tests.ui.engine.questions", adapters, backbone],
        check=False,
        cwd=ROOT,
        env={
            **os.environ,
            "SPACES_ZERO_GPU": "true",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(__file__).with_name("stand_ins"))]),
            "GRADIO_SERVER_PORT": str(port),
            "OMP_NUM_THREADS": "1",  # a fork may wait for ever for the threads of its parent
        },
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert found.returncode == 0, found.stderr
    assert "Traceback" not in found.stderr, found.stderr
    said = json.loads(found.stdout.splitlines()[-1])
    assert said.pop("here") is False
    assert set(said.pop("calls")) == {"answers", "label_shares", "outcomes"}
    assert said.pop("refreshed") == []
    assert [name for name, _ in said["refusals"]] == [
        *("EngineError", "ConfigError", "DecodingError", "EngineError")
    ]
    assert any(any(row) for row in said["effects"])
    assert said == json.loads(json.dumps(expected))


def test_elsewhere_a_marked_function_runs_in_the_model_thread_pool():
    used, closed = set(), []

    @on_gpu
    def work(steps):
        try:
            for step in range(steps):
                used.add(threading.current_thread())
                yield step
        finally:
            closed.append(steps)

    assert not ZERO_GPU
    found = []
    callers = [threading.Thread(target=lambda: found.append([*work(3)])) for _ in range(12)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert found == [[0, 1, 2]] * 12
    assert 1 <= len(used) <= 2
    assert not used & {threading.current_thread(), *callers}
    with closing(work(5)) as left:
        next(left)
    assert closed == [3] * 12 + [5]


def test_errors_of_a_marked_function_reach_who_called_it():
    @on_gpu
    def work():
        yield 1
        raise ValueError("no more")

    steps = work()
    assert next(steps) == 1
    with pytest.raises(ValueError, match="no more"):
        next(steps)
