"""A task outside of this library: as a PEFT LoRA, as a whole model, as a bundle for vLLM."""

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import jinja2
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from cgclora.__main__ import main
from cgclora.adapter import Adapter
from cgclora.config import AdapterConfig, ConfigError
from cgclora.convert.gguf import export_gguf
from cgclora.convert.importing.lora import import_peft
from cgclora.convert.merged import export_merged
from cgclora.convert.peft_export import export_peft
from cgclora.convert.to_lora import TaskLoRAs, file_names
from cgclora.convert.vllm import MODELS_FILE, TEMPLATE_FILE, export_vllm
from cgclora.data.chat import encode_prompts
from cgclora.models.backbone import EMBEDDED, Backbone, load_backbone
from cgclora.models.embedded import CHECKED_FILE
from cgclora.storage.adapter_dir import AdapterError, read_manifest
from cgclora.storage.atomic_io import sha256_file
from evals.__main__ import main as evals_main
from tests.helpers.reference import METHODS, TASKS, logits, merged, scatter, token_ids
from tests.helpers.tiny import ARCHITECTURES, make_backbone, make_model, save_backbone

ALL_ARCHITECTURES = pytest.mark.parametrize("architecture", ARCHITECTURES)
CGC = METHODS["CGC-LoRA"]
CLOSE = {"rtol": 1e-4, "atol": 1e-4}
MEDICAL = Path(__file__).parents[3] / "assets" / "adapters" / "medical"
IDS = token_ids(2)


def attached(
    architecture: str = "qwen2", config: AdapterConfig = CGC, name: str = "default"
) -> Adapter:
    """An adapter on a tiny backbone that it changes."""
    return scatter(Adapter.attach(make_backbone(architecture), config, name=name))


def routed(adapter: Adapter, task: str, ids: torch.Tensor = IDS) -> torch.Tensor:
    with adapter.route([task] * len(ids)):
        return logits(adapter.model, ids)


def with_peft(model: nn.Module, folder: Path) -> nn.Module:
    """What PEFT makes of a folder, on a copy of a bare model."""
    return PeftModel.from_pretrained(deepcopy(model), folder).eval()


def apart(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Mean distance of logits. In bfloat16 they are a few hundredths of the adapter's effect off,
    whoever computes them: it rounds to 8 bits, and everybody in other places."""
    return float((found - expected).abs().mean())


def backbone_weights(adapter: Adapter) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in adapter.model.state_dict().items()}


# PEFT -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("architecture", "config"),
    [
        *(pytest.param("qwen2", config, id=name) for name, config in METHODS.items()),
        *(pytest.param(name, CGC, id=name) for name in ARCHITECTURES if name != "qwen2"),
    ],
)
def test_peft_loads_a_task_and_gives_its_logits(tmp_path, architecture, config):
    adapter = attached(architecture, config)
    export_peft(TaskLoRAs.of(adapter), tmp_path / "out")
    bare = make_model(architecture).double()
    adapter.model.double()  # what fp32 rounds in a pass would hide what an export loses
    for task in TASKS:
        found = logits(with_peft(bare, tmp_path / "out" / task).double(), IDS)
        torch.testing.assert_close(found, routed(adapter, task), **CLOSE)
        torch.testing.assert_close(found, logits(merged(bare, adapter, task), IDS), **CLOSE)
        assert not torch.allclose(found, logits(bare, IDS), **CLOSE)


@ALL_ARCHITECTURES
def test_a_saved_adapter_is_exported_without_the_backbones_weights(tmp_path, architecture):
    adapter = attached(architecture)
    adapter.save(tmp_path / "adapter", facts={"licence": "CC0", "method": "cgc-lora"})
    export_peft(TaskLoRAs.of(adapter), tmp_path / "attached", ["mood"])
    saved = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    export_peft(saved, tmp_path / "saved", ["mood"])
    expected = load_file(tmp_path / "attached" / "adapter_model.safetensors")
    found = load_file(tmp_path / "saved" / "adapter_model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=0)


def test_only_adapted_layers_are_named_and_by_suffix_where_that_is_clear(tmp_path):
    everywhere = TaskLoRAs.of(attached())
    assert set(everywhere.target_modules) == {
        *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    }
    path = "model.layers.1.self_attn.q_proj"
    config = AdapterConfig(TASKS, expert_rank=2, target_modules=(path, "down_proj"))
    adapter = attached(config=config)
    experts = TaskLoRAs.of(adapter)
    assert path in experts.target_modules
    export_peft(experts, tmp_path / "out", ["mood"])
    model = with_peft(make_model(), tmp_path / "out")
    wrapped = {name for name, module in model.named_modules() if hasattr(module, "lora_A")}
    assert wrapped == {f"base_model.model.{name}" for name in adapter.layers}
    torch.testing.assert_close(logits(model, IDS), routed(adapter, "mood"), **CLOSE)


def test_the_update_is_exact_in_fp32(tmp_path):
    adapter = attached()
    lora = TaskLoRAs.of(adapter).lora("mood")
    assert lora.rank == CGC.active_rank
    for row, (path, layer) in enumerate(adapter.layers.items()):
        A, B = lora.layers[path]
        expected = layer.update(adapter.name, adapter.rank_weights("mood")[row])
        torch.testing.assert_close(B @ A, expected, rtol=1e-5, atol=1e-6)


def test_an_export_says_where_it_comes_from(tmp_path):
    adapter = attached("gemma3")
    adapter.save(tmp_path / "adapter", facts={"licence": "CC BY-NC 4.0", "method": "cgc-lora"})
    source = TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    manifest = export_peft(source, tmp_path / "out", ["mood"], base="somebody/gemma")
    written = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert json.loads(json.dumps(manifest)) == written
    origin, stored = manifest["adapters"][0], read_manifest(tmp_path / "adapter")[0]
    assert origin["sha256"] == stored["files"]["adapter.safetensors"]["sha256"]
    assert manifest["backbone"]["fingerprint"] == stored["backbone"]["fingerprint"]
    assert (manifest["licence"], manifest["separator"]) == ("CC BY-NC 4.0", "\n")
    assert manifest["export"] == {"format": "peft", "tasks": ["mood"], "rank": CGC.active_rank}
    for name, facts in manifest["files"].items():
        assert sha256_file(tmp_path / "out" / name) == facts["sha256"]
    written = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert written["base_model_name_or_path"] == "somebody/gemma"
    card = (tmp_path / "out" / "README.md").read_text()
    assert "CC BY-NC 4.0" in card
    assert "Gemma Terms of Use" in card
    assert "Gemma Terms of Use" in (tmp_path / "out" / "NOTICE").read_text()
    assert "# Gemma Terms of Use" in (tmp_path / "out" / "GEMMA_TERMS.md").read_text()


def test_only_gemma_brings_gemmas_terms(tmp_path):
    export_peft(TaskLoRAs.of(attached("qwen2")), tmp_path / "out", ["mood"])
    assert not (tmp_path / "out" / "NOTICE").exists()
    assert "Gemma" not in (tmp_path / "out" / "README.md").read_text()


def test_every_folder_of_an_export_of_all_tasks_says_it_too(tmp_path):
    export_peft(TaskLoRAs.of(attached()), tmp_path / "out")
    for task in TASKS:
        manifest = json.loads((tmp_path / "out" / task / "manifest.json").read_text())
        assert manifest["export"]["tasks"] == [task]


def test_an_export_replaces_an_older_one_and_nothing_else(tmp_path):
    experts = TaskLoRAs.of(attached())
    export_peft(experts, tmp_path / "out")
    export_peft(experts, tmp_path / "out", ["mood"])
    assert not (tmp_path / "out" / "summary").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(AdapterError, match="something other than an export"):
        export_peft(experts, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_another_backbone_is_noticed_by_its_layers(tmp_path):
    attached("qwen2").save(tmp_path / "adapter")
    with pytest.raises(AdapterError, match="name the one it was trained on"):
        TaskLoRAs.read(tmp_path / "adapter", make_model("glm").config)
    for other in ({"intermediate_size": 48}, {"num_key_value_heads": 4}):
        config = make_model("qwen2").config
        config.update(other)
        with pytest.raises(AdapterError, match=r"other layers.*name the one it was trained on"):
            TaskLoRAs.read(tmp_path / "adapter", config)


def test_another_backbone_is_noticed_by_its_type(tmp_path):
    manifest = attached("qwen2").save(tmp_path / "adapter")
    llama = make_model("llama").config  # with the same layers
    with pytest.raises(AdapterError, match=r"another type than 'llama'.*the one it was trained on"):
        TaskLoRAs.read(tmp_path / "adapter", llama)
    del manifest["backbone"]["model_type"]  # as older versions wrote it
    (tmp_path / "adapter" / "manifest.json").write_text(json.dumps(manifest))
    assert TaskLoRAs.read(tmp_path / "adapter", llama).layers


def test_a_saved_adapter_is_read_once(tmp_path, monkeypatch):
    adapter = attached()
    adapter.save(tmp_path / "adapter")
    hashed = []
    monkeypatch.setattr(
        "cgclora.storage.atomic_io.sha256_file",
        lambda path: hashed.append(path.name) or sha256_file(path),
    )
    TaskLoRAs.read(tmp_path / "adapter", adapter.model.config)
    assert sorted(hashed) == ["adapter.safetensors", "config.json"]


def test_file_names_are_safe_and_distinct():
    assert file_names(["a/../b", "情感 分析", "x=y;z"]) == {
        "a/../b": "a_.._b",
        "情感 分析": "情感_分析",
        "x=y;z": "x_y_z",
    }
    for alike in (["a b", "a/b"], ["-a", "a"]):
        with pytest.raises(AdapterError, match="one by one"):
            file_names(alike)


def test_tasks_get_names_that_programs_do_not_take_for_options():
    assert file_names(["-x", "--", "._-y-"]) == {"-x": "x", "--": "task", "._-y-": "y-"}


def test_long_names_are_cut_and_stay_distinct(tmp_path):
    tasks = ("情" * 150 + "甲", "情" * 150 + "乙")
    names = file_names(tasks).values()
    assert len(set(names)) == 2
    assert all(len(name.encode()) <= 200 and name.startswith("情情") for name in names)
    config = AdapterConfig(tasks, expert_rank=2)
    export_gguf(TaskLoRAs.of(attached(config=config)), tmp_path / "out")
    assert all((tmp_path / "out" / f"{name}.gguf").is_file() for name in names)


def test_no_task_takes_the_place_of_a_file_of_the_export(tmp_path):
    export_peft(TaskLoRAs.of(attached("gemma3")), tmp_path / "peft")
    export_vllm([TaskLoRAs.of(attached())], tmp_path / "vllm", base="x/y")
    written = {
        path.name for out in ("peft", "vllm") for path in (tmp_path / out).iterdir()
        if path.is_file()
    }  # fmt: skip
    assert len(written) == 7
    tasks = tuple(sorted(written))
    adapter = attached("gemma3", AdapterConfig(tasks, expert_rank=2))
    manifest = export_peft(TaskLoRAs.of(adapter), tmp_path / "out")
    assert manifest["export"]["tasks"] == list(tasks)
    for task in tasks:
        model = with_peft(make_model("gemma3"), tmp_path / "out" / f"task_{task}")
        torch.testing.assert_close(logits(model, IDS), routed(adapter, task), **CLOSE)


# A whole model ----------------------------------------------------------------------------


@ALL_ARCHITECTURES
def test_the_merged_model_is_the_folded_one_bit_for_bit(tmp_path, architecture):
    adapter, tokenizer = attached(architecture), make_backbone().tokenizer
    before = backbone_weights(adapter)
    export_merged(adapter, "mood", tmp_path / "out", tokenizer)
    after = backbone_weights(adapter)
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(found, IDS), routed(adapter, "mood"), **CLOSE)
    adapter.fold("mood")
    assert torch.equal(logits(found, IDS), logits(adapter.model, IDS))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").encode("好") == tokenizer.encode("好")


def test_a_merged_model_is_a_backbone_like_any_other(tmp_path):
    adapter = attached("gemma3")
    export_merged(adapter, "mood", tmp_path / "out", make_backbone().tokenizer)
    backbone = load_backbone(tmp_path / "out", device="cpu", dtype="float32")
    torch.testing.assert_close(logits(backbone.model, IDS), routed(adapter, "mood"), **CLOSE)


def test_other_adapters_on_the_backbone_are_not_part_of_the_merged_model(tmp_path):
    backbone = make_backbone()
    adapter = scatter(Adapter.attach(backbone, CGC, name="one"))
    scatter(Adapter.attach(backbone, METHODS["LoRA"], name="two"), seed=2)
    export_merged(adapter, "mood", tmp_path / "out", backbone.tokenizer)
    assert load_file(tmp_path / "out" / "model.safetensors").keys() <= set(
        make_model().state_dict()
    )


def test_a_folded_task_is_not_lost_by_an_export(tmp_path):
    adapter = attached()
    adapter.fold("names")
    with pytest.raises(AdapterError, match="'names' is folded in: unfold"):
        export_merged(adapter, "mood", tmp_path / "out", make_backbone().tokenizer)
    assert adapter.folded_task == "names"


def test_a_full_disk_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(9, 9, 0))
    with pytest.raises(OSError, match=r"takes .* GB, 0\.00 GB are free"):
        export_merged(attached(), "mood", tmp_path / "out", make_backbone().tokenizer)
    assert not (tmp_path / "out").exists()


# vLLM -------------------------------------------------------------------------------------


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


# The command line -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny backbone and an adapter that knows it as its folder's name."""
    folder = tmp_path_factory.mktemp("saved")
    backbone = load_backbone(save_backbone(folder / "backbone", "gemma3"), device="cpu")
    scatter(Adapter.attach(backbone, CGC)).save(folder / "adapter")
    return folder


def exporting(saved: Path, *more: str) -> list[str]:
    return [
        *("export", "--adapter", str(saved / "adapter"), "--backbone", str(saved / "backbone")),
        *more,
    ]


@pytest.mark.parametrize(
    ("words", "count", "file"),
    [
        (["--format", "peft"], 3, "mood/adapter_model.safetensors"),
        (["--format", "peft", "--task", "mood"], 1, "adapter_model.safetensors"),
        (["--format", "gguf", "--precision", "float16"], 3, "mood.gguf"),
        (["--format", "merged", "--task", "mood"], 1, "model.safetensors"),
        (["--format", "vllm", "--base", "x/y"], 3, "serve.sh"),
    ],
)
def test_the_command_exports(saved, tmp_path, capsys, words, count, file):
    assert main(exporting(saved, *words, "--out", str(tmp_path / "out"), "--json")) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert len(manifest["export"]["tasks"]) == count
    assert file in manifest["files"]
    assert (tmp_path / "out" / file).is_file()
    assert main(exporting(saved, *words, "--out", str(tmp_path / "out"))) == 0
    assert f"{count} task" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--format", "peft", "--task", "nobody"], 2, "unknown task 'nobody'"),
        (["--format", "merged"], 2, "name one --task"),
        (["--format", "merged", "--task", "nobody"], 2, "unknown task 'nobody'"),
        (["--format", "gguf", "--adapter", "other"], 2, "takes one --adapter"),
        (["--format", "peft", "--backbone", "nowhere/at-all"], 3, "no folder here"),
        (["--format", "vllm"], 2, "give --base"),
    ],
)
def test_the_command_says_what_is_wrong(saved, tmp_path, capsys, words, code, message):
    assert main(exporting(saved, *words, "--out", str(tmp_path / "out"))) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_help_does_not_wait_for_torch():
    program = (
        "import sys; from cgclora.__main__ import main\n"
        "try: main(['export', '--help'])\n"
        "except SystemExit: assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)


# The embedded backbone --------------------------------------------------------------------


@pytest.fixture(scope="module")
def embedded() -> Backbone:
    return load_backbone(device="cpu", dtype="bfloat16")


@pytest.fixture(scope="module")
def prompts(embedded: Backbone) -> torch.Tensor:
    ids = embedded.tokenizer("荨麻疹怎么治才能不复发？这句话的意图是什么？\n")["input_ids"]
    return torch.tensor([ids])


@pytest.mark.backbone
def test_the_shipped_adapter_is_the_same_in_peft_and_in_fp32_to_the_fourth_digit(
    tmp_path, embedded, prompts
):
    export_peft(TaskLoRAs.read(MEDICAL, embedded.model.config), tmp_path / "out", ["KUAKE-QIC"])
    for backbone, close in ((embedded, 0.1), (load_backbone(device="cpu", dtype="float32"), 1e-4)):
        adapter = Adapter.load(MEDICAL, backbone)
        expected = routed(adapter, "KUAKE-QIC", prompts)
        adapter.detach()
        bare = logits(backbone.model, prompts)
        found = logits(with_peft(backbone.model, tmp_path / "out"), prompts)
        assert apart(found, expected) < close * apart(bare, expected)
        assert torch.equal(found[:, -1].argmax(-1), expected[:, -1].argmax(-1))


@pytest.mark.backbone
def test_an_exported_task_of_the_shipped_adapter_comes_back_the_same(tmp_path, embedded, prompts):
    source = TaskLoRAs.read(MEDICAL, embedded.model.config)
    export_peft(source, tmp_path / "out", ["KUAKE-QIC"])
    adapter = import_peft(tmp_path / "out", embedded, ["again"])
    found = routed(adapter, "again", prompts)
    adapter.detach()
    adapter = Adapter.load(MEDICAL, embedded)
    expected = routed(adapter, "KUAKE-QIC", prompts)
    adapter.detach()
    assert apart(found, expected) < 0.1 * apart(logits(embedded.model, prompts), expected)


@pytest.mark.backbone
def test_the_shipped_adapter_is_the_same_in_a_merged_model(tmp_path, embedded, prompts):
    adapter = Adapter.load(MEDICAL, embedded)
    export_merged(adapter, "KUAKE-QIC", tmp_path / "out", embedded.tokenizer)
    expected = routed(adapter, "KUAKE-QIC", prompts)
    adapter.fold("KUAKE-QIC")
    folded = logits(embedded.model, prompts)
    adapter.detach()
    found = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert found.dtype == torch.bfloat16
    assert torch.equal(logits(found, prompts), folded)
    bare = logits(embedded.model, prompts)
    assert apart(folded, expected) < 0.1 * apart(bare, expected)
