"""vLLM in an environment of its own, serving a bundle with the bundle's own script."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from cgclora.__main__ import main
from cgclora.config import PromptFormat
from cgclora.convert.vllm import MODELS_FILE
from cgclora.data.chat import encode_prompts
from cgclora.inference.engine import generate
from cgclora.inference.multi_adapter import Clusters
from cgclora.inference.request import Request
from cgclora.models.backbone import load_backbone
from evals.data import datasets
from evals.runs.engines import ServerEngine

ROOT = Path(__file__).parents[2]
_CLUSTERS = tuple(ROOT / "assets" / "adapters" / name for name in ("medical", "general"))
TOKENS = 64  # of an answer, at most
IN_FP32 = ("--dtype", "float32", "--max-model-len", "1536", "--enforce-eager")
_START_SECONDS = 900.0  # a machine with other work takes five minutes


class VLLMError(RuntimeError):
    """There is no vLLM, or its server did not start."""


def environment() -> Path:
    """The folder of an environment with vLLM: `CGCLORA_VLLM`, or `.venv/vllm`, made if missing.

    Raises:
        VLLMError: It cannot be made.
    """
    folder = Path(os.environ.get("CGCLORA_VLLM") or ROOT / ".venv" / "vllm").resolve()
    if not (folder / "bin" / "vllm").exists():
        words = ["make", "vllm", f"CGCLORA_VLLM={folder}"]
        made = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        if made.returncode:
            last = (made.stderr or made.stdout).strip().splitlines()[-1:]
            raise VLLMError(f"`make vllm` failed: {' '.join(last)}")
    return folder


@contextmanager
def serving(bundle: Path, *options: str) -> Iterator[str]:
    """Run a bundle's `serve.sh` on a free port; yields the server's address.

    Raises:
        VLLMError: It ends, or does not answer in time; with the end of its log.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = bundle.with_name(f"{bundle.name}-{port}.log")
    paths = os.pathsep.join([str(environment() / "bin"), os.environ["PATH"]])
    settings = {
        **os.environ,
        "PATH": paths,
        "HF_HUB_OFFLINE": "1",
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
        "VLLM_NO_USAGE_STATS": "1",
    }
    words = [bundle / "serve.sh", "--host", "127.0.0.1", "--port", str(port), *options]
    with log.open("wb") as file:
        server = subprocess.Popen(
            words, env=settings, stdout=file, stderr=file, start_new_session=True
        )
    try:
        _wait(server, f"http://127.0.0.1:{port}", log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and server.poll() is None:
        try:
            if httpx.get(f"{address}/health").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(1.0)
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    raise VLLMError("vLLM did not start:\n" + "\n".join(lines[-30:]))


def export(folder: Path) -> None:
    """Write the bundle of both shipped adapters."""
    adapters = [word for path in _CLUSTERS for word in ("--adapter", str(path))]
    main(["export", *adapters, "--format", "vllm", "--out", str(folder)])


def samples() -> list[Request]:
    """A prompt of each task."""
    records = datasets.read(str(ROOT / "assets" / "samples"), split="test").records
    prompts = {record.task: record.prompt for record in reversed(records)}
    return [Request(task, prompt, max_new_tokens=TOKENS) for task, prompt in prompts.items()]


def ask(url: str, bundle: Path, asked: Sequence[Request], parallel: int) -> list[str]:
    """A server's answers, some requests at once, by the bundle's table of model names."""
    known = json.loads((bundle / MODELS_FILE).read_text(encoding="utf-8"))
    prompts = PromptFormat(known["separator"])
    engine = ServerEngine(url, known["models"], prompts=prompts, parallel=parallel)
    answers = dict(engine.answers(asked))
    return [answers[place].text for place in range(len(asked))]


def ours(
    asked: Sequence[Request], dtype: str
) -> tuple[list[str], list[tuple[list[int], list[int]]]]:
    """Our answers with both shipped adapters on a CPU; and the ids of prompts and answers."""
    backbone = load_backbone(device="cpu", dtype=dtype)
    clusters = Clusters(backbone)
    for path in _CLUSTERS:
        clusters.add(path.name, path)
    answers = [one.text for one in generate(backbone, asked, clusters)]
    prompts = encode_prompts([one.prompt for one in asked], backbone.tokenizer, "\n")
    ids = backbone.tokenizer(answers, add_special_tokens=False)["input_ids"]
    return answers, list(zip(prompts, ids, strict=True))
