"""Tasks as a bundle for vLLM: its command line, its client, its chat template."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jinja2
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.convert.to_lora import TaskLoRAs
from cgclora.convert.vllm import MODELS_FILE, TEMPLATE_FILE, export_vllm
from cgclora.data.chat import encode_prompts
from cgclora.models.backbone import EMBEDDED
from cgclora.models.embedded import CHECKED_FILE
from cgclora.storage.adapter_dir import AdapterError
from evals.__main__ import main as evals_main
from tests.helpers.exports import CGC, CLOSE, IDS, attached, routed, with_peft
from tests.helpers.reference import TASKS, logits, scatter
from tests.helpers.tiny import make_backbone, make_model, save_backbone


def bundle(folder: Path) -> Path:
    """A bundle of two adapters on one backbone."""
    backbone = make_backbone()
    other = AdapterConfig(("weather news", "poems"), common=4, expert_rank=7)
    adapters = [
        scatter(Adapter.attach(backbone, CGC, name="one")),
        scatter(Adapter.attach(backbone, other, name="two"), seed=2),
    ]
    export_vllm([TaskLoRAs.of(adapter) for adapter in adapters], folder, base="me/base")
    for adapter in adapters:
        adapter.detach()
    return folder


def arguments(folder: Path, tmp_path: Path) -> list[str]:
    """What `serve.sh` would start vLLM with."""
    fake = tmp_path / "bin" / "vllm"
    fake.parent.mkdir()
    fake.write_text('#!/usr/bin/env bash\npwd\nprintf "%s\\n" "$@"\n')
    fake.chmod(0o755)
    done = subprocess.run(
        [folder / "serve.sh", "--port", "9"],
        env={"PATH": f"{fake.parent}:/usr/bin:/bin"},
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_bundles_command_line_serves_every_task(tmp_path):
    folder = bundle(tmp_path / "bundle")
    where, *words = arguments(folder, tmp_path)
    assert Path(where) == folder
    assert words[:2] == ["serve", "me/base"]
    assert "--enable-lora" in words
    assert "--chat-template" not in words  # which special tokens this base adds is not known
    values = {word: words[place + 1] for place, word in enumerate(words) if word[:2] == "--"}
    assert values["--generation-config"] == "vllm"
    assert values["--max-lora-rank"] == "64"  # ranks 10 and 35
    assert values["--max-loras"] == values["--max-cpu-loras"] == "5"
    modules = words[words.index("--lora-modules") + 1 : -2]
    assert words[-2:] == ["--port", "9"]
    models = json.loads((folder / MODELS_FILE).read_text())["models"]
    assert models == {task: task for task in (*TASKS, "poems")} | {"weather news": "weather_news"}
    named = dict(module.split("=") for module in modules)
    assert set(named) == set(models.values())
    bare = make_model()
    for path in named.values():
        written = json.loads((folder / path / "adapter_config.json").read_text())
        assert written["base_model_name_or_path"] == "me/base"
        assert not torch.allclose(logits(with_peft(bare, folder / path), IDS), logits(bare, IDS))


@pytest.fixture
def completions() -> Iterator[tuple[str, list[dict[str, object]]]]:
    """A completions API that answers 42: its address, and the requests that it got."""
    asked: list[dict[str, object]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            choice = {"index": 0, "text": "42", "finish_reason": "stop", "logprobs": None}
            body = {"id": "x", "object": "text_completion", "created": 0, "model": "x"}
            content = json.dumps({**body, "choices": [choice]}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/v1", asked
        server.shutdown()
        thread.join()


def test_the_bundles_client_asks_for_the_tasks_model_with_the_separator(tmp_path, completions):
    url, asked = completions
    client = bundle(tmp_path / "bundle") / "client.py"
    done = subprocess.run(
        [sys.executable, client, "weather news", "rain?", url],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "42\n"
    (request,) = asked
    assert (request["model"], request["prompt"]) == ("weather_news", "rain?\n")
    assert request["temperature"] == 0


def test_the_embedded_backbone_comes_with_the_bundle(tmp_path, monkeypatch):
    """No hub has it as it was converted."""
    adapter = attached("gemma3")
    adapter.backbone_name = EMBEDDED
    folder = save_backbone(tmp_path / "cache", "gemma3")
    (folder / CHECKED_FILE).write_text("{}")
    monkeypatch.setattr("cgclora.convert.vllm.embedded_folder", lambda report: folder)
    export_vllm([TaskLoRAs.of(adapter)], tmp_path / "out")
    _, _, base, *words = arguments(tmp_path / "out", tmp_path)
    assert (base, words[:2]) == ("backbone", ["--served-model-name", EMBEDDED])
    bare = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / base).eval()
    model = with_peft(bare, tmp_path / "out" / "loras" / "mood")
    torch.testing.assert_close(logits(model, IDS), routed(adapter, "mood"), **CLOSE)
    assert AutoTokenizer.from_pretrained(tmp_path / "out" / base).encode("好")
    assert not (tmp_path / "out" / base / CHECKED_FILE).exists()


def test_chat_messages_become_the_prompts_of_training(tmp_path, monkeypatch):
    config = AdapterConfig(("mood",), separator='\n答："')
    adapter = scatter(Adapter.attach(make_backbone("gemma3"), config, name=EMBEDDED))
    adapter.backbone_name = EMBEDDED
    folder = save_backbone(tmp_path / "cache", "gemma3")
    monkeypatch.setattr("cgclora.convert.vllm.embedded_folder", lambda report: folder)
    export_vllm([TaskLoRAs.of(adapter)], tmp_path / "out")
    words = arguments(tmp_path / "out", tmp_path)
    assert words[words.index("--chat-template") + 1] == TEMPLATE_FILE
    template = (tmp_path / "out" / TEMPLATE_FILE).read_text(encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "backbone")

    def prompt(*roles: tuple[str, str]) -> str:
        messages = [{"role": role, "content": content} for role, content in roles]
        return tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False)

    assert prompt(("user", "  a?\n")) == '<bos>  a?\n\n答："'
    both = prompt(("system", "s"), ("user", "a?"))
    expected = encode_prompts(["s\na?"], tokenizer, config.prompt_format)
    assert [tokenizer.encode(both, add_special_tokens=False)] == expected
    with pytest.raises(jinja2.TemplateError, match="send the last one alone"):
        prompt(("user", "a?"), ("assistant", "b"), ("user", "c?"))


def test_a_bundle_refuses_what_it_cannot_serve(tmp_path):
    experts = TaskLoRAs.of(attached())
    with pytest.raises(ConfigError, match="several adapters know"):
        export_vllm([experts, experts], tmp_path / "out", base="x/y")
    with pytest.raises(ConfigError, match="give --base"):
        export_vllm([experts], tmp_path / "out")
    large = AdapterConfig(("poems",), common=600, specific=0, expert_rank=1)
    with pytest.raises(AdapterError, match="rank 600, vLLM takes up to 512"):
        export_vllm([TaskLoRAs.of(attached(config=large))], tmp_path / "out", base="x/y")
    other = AdapterConfig(("poems",), separator=" ")
    with pytest.raises(AdapterError, match="make a bundle for each"):
        export_vllm([experts, TaskLoRAs.of(attached(config=other))], tmp_path / "out", base="x/y")
    with pytest.raises(AdapterError, match="different backbones"):
        export_vllm([experts, TaskLoRAs.of(attached("qwen3", other))], tmp_path / "out", base="x/y")
    assert not (tmp_path / "out").exists()


def test_the_evaluation_reads_a_bundles_models(tmp_path, capsys):
    bad = tmp_path / "models.json"
    bad.write_text("[]")
    words = ["predict", "--run", str(tmp_path / "run"), "--method", "x", "--data", "assets/samples"]
    server = ["--server", "http://127.0.0.1:9", "--models"]
    assert evals_main([*words, *server, str(bad)]) == 2
    assert "is no models.json" in capsys.readouterr().err
    bad.write_text(json.dumps({"separator": "\n", "models": {"elsewhere": "x"}}))
    assert evals_main([*words, *server, str(bad), "--task", "NER"]) == 4
    assert "knows NER" in capsys.readouterr().err
