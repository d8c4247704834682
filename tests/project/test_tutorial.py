"""Every command of the tutorial, on tiny chat models of several families."""

import re
import shlex
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import openai
import pytest
import torch
import uvicorn

import cgclora.__main__
import evals.__main__
from cgclora.models.checkpoint import auto_class
from evals.runs.run_dir import read_run
from tests.helpers.hub import only_hub
from tests.helpers.templates import GEMMA, GLM, QWEN3, chat_tokenizer, ends_of
from tests.suites.backbones.configs import tiny_config

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FAMILIES = {"qwen3": QWEN3, "qwen3_5": QWEN3, "glm4": GLM, "gemma3": GEMMA}
"""The last one reads pictures, too, and the second one has layers of linear attention."""

COMMANDS = {"cgclora": cgclora.__main__.main, "evals": evals.__main__.main}


def save_model(folder: Path, family: str) -> None:
    """A tiny chat model of a family, as a hub snapshot would lie on disk."""
    tokenizer = chat_tokenizer(FAMILIES[family])
    config = tiny_config(family)
    config.get_text_config().update(
        {"vocab_size": len(tokenizer), "max_position_embeddings": 1024, "pad_token_id": 0}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = auto_class(config).from_config(config)
    model.generation_config.eos_token_id = sorted(ends_of(tokenizer))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def blocks(model: Path, port: int) -> Iterator[tuple[str, str]]:
    """The tutorial's blocks of a language, with a model and names that are there."""
    text = (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8")
    names = {"Qwen/Qwen3-0.6B": str(model), "8000": str(port), "someone/shop": "me/mine"}
    for name, here in names.items():
        assert name in text
        text = text.replace(name, here)
    yield from BLOCK.findall(text)


@contextmanager
def serving(words: list[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """`python -m cgclora serve` in a thread, which takes no signals."""
    started: list[uvicorn.Server] = []
    run = uvicorn.Server.run

    def noted(server: uvicorn.Server, **options: object) -> None:
        started.append(server)
        run(server, **options)

    monkeypatch.setattr(uvicorn.Server, "run", noted)
    thread = threading.Thread(target=COMMANDS["cgclora"], args=(words,))
    thread.start()
    while thread.is_alive() and not (started and started[0].started):
        thread.join(0.05)
    assert thread.is_alive(), "the server ended"
    yield
    started[0].should_exit = True
    thread.join()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_command_works(
    family: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    save_model(tmp_path / "model", family)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    answered: list[str] = []
    create = openai.resources.chat.completions.Completions.create

    def noted(client: object, **asked: object) -> object:
        answer = create(client, **asked)  # type: ignore[arg-type, call-overload]
        answered.append(answer.choices[0].finish_reason)
        return answer

    monkeypatch.setattr(openai.resources.chat.completions.Completions, "create", noted)
    with only_hub(monkeypatch, tmp_path / "cache") as hub:
        waiting: list[str] = []  # for the client, which comes in a block of its own
        for language, block in blocks(tmp_path / "model", port):
            if language == "python":
                with serving(waiting, monkeypatch):
                    exec(block, {})
                continue
            for line in block.replace("\\\n", " ").splitlines():
                python, option, package, *words = shlex.split(line)
                assert (python, option) == ("python", "-m")
                if words[0] == "serve":
                    waiting = words
                else:
                    assert COMMANDS[package](words) == 0, f"{line}\n{capsys.readouterr().err}"
        assert hub.files is not None
        assert "chat_template.jinja" in hub.files
    assert answered in (["stop"], ["length"])
    run = read_run(tmp_path / "runs/evaluations/shop")
    assert set(run.metrics or {}) == {"派单", "登记", "回复"}
    assert (tmp_path / "exports/vllm/serve.sh").is_file()
